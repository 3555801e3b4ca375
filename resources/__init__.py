"""What has an address: stores, logs, tables, launchers."""
