"""Units of sizes, in bytes.

Knows: powers of 1024.
Must not know: what is measured.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
