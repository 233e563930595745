"""What is below PraisonAI's original API: its semantics, and where its sessions are."""
