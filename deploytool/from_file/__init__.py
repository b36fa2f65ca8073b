"""Deployment files beside what is really deployed: names that exist, and what differs.

known        models, profiles, engines, runtimes and settings of a file, checked before anything is planned
differences  each deployment of a file against the record of that name, field by field
schema       the JSON Schema of a file, with the engines' own settings in it
"""
