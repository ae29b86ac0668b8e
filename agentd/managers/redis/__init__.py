"""Stores: dual persistence enforced, guarded and proven."""
