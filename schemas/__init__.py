"""Data contracts: Arrow schemas, artefact cards, typed configs. Imports nothing of the other rooms."""
