"""How does a server learn the sum of its clients' numbers, and nothing else of them?

By pairwise masks that cancel in the sum, and shares by which the masks of clients that have left
are found again: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", with its signatures and its check of consistency. The cryptography is that of the package
`cryptography`: X25519, Ed25519, HKDF-SHA256, ChaCha20, AES-GCM. By hand is Shamir's sharing alone.
Nothing here knows TensorFlow, or what the numbers are.

A round has five phases, each a request of the server and an answer of each client:

    keys         each client makes keys for this round, and signs them
    shares       it splits the secrets behind its masks among all, encrypted for each
    masked       it sends its numbers under its masks
    consistency  it signs who is in the sum
    unmask       it sends the shares of what has to be taken off the sum

Read in this order; each file imports from those above it only:

1. ring.py: how are fractions added exactly, as integers that cannot overflow?
2. shamir.py: how is a secret split so that any t shares give it back, and t - 1 say nothing?
3. keys.py: which keys are there, and what is done with each?
4. setup.py: what do all parties of a round have to agree on?
5. texts.py: what is signed, what is derived, and how are keys passed on?
6. client.py: what does a client do in each phase, and what does it refuse?
7. server.py: what does the server do in each phase, and what does it refuse?
"""
