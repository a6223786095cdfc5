"""The review app: pages, an API and media of a repository's versions, for people who decide on findings."""
