"""How much ground each class covers."""
