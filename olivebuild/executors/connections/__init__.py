"""Connections to agents on other machines: commands whose stdin and stdout reach one."""
