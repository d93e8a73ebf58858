"""Values of declared types, made of JSON."""
