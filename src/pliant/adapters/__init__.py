"""Pliant inside other libraries: one file a library, which imports that library and is imported by nothing else here."""
