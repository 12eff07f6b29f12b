"""Class schemes, their codes, and crosswalks between them."""
