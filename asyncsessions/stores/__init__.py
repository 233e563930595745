"""The stores. Import each from its own module; none loads a driver that isn't its own."""
