"""Scenes become worlds: grammars, geometry, people, animals, players."""
