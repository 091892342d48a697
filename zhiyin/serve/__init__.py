"""The service: a web page, an API, live captions, and a history that can be audited (`zhiyin serve`)."""
