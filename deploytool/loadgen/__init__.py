"""The load generator:

what is sent, the Locust child process that sends it, and the samples that come back.
"""
