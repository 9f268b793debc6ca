"""The vocabulary of the project: types, errors, media, seeding and files. Imports no torch."""
