"""The original API of PraisonAI's session stores, for programs without an event loop."""
