"""Image references, archives, registries, and the buildah and skopeo programs.

Must not know: uploads, Redis, HTTP serving.
"""
