"""The face: parse, call, print. One file per group of verbs, imported only when its verb is used."""
