"""WebSockets on streams: the handshake, messages in frames, and a socket's session."""
