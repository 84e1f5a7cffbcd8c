"""What follows an upload: admission, the queue, the steps to a registry, status and retention.

Knows: uploads by the Protocols of `hooks.ports`, Redis, the verbs of `buildah`.
Must not know: HTTP, argv, sockets, how uploads are stored.
"""
