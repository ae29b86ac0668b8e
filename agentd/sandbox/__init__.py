"""A private, real `systemd --user` in namespaces, with stand-in servers: for a first look and for the tests."""
