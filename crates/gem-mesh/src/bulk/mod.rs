//! Links for what is large: TCP under TLS, with the node's own key.
