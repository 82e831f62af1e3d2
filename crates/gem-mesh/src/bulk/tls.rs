//! TLS 1.3 with the node's own key, in the certificate form of libp2p's TLS spec
//! (<https://github.com/libp2p/specs/blob/master/tls/tls.md>): a self-signed certificate that
//! carries the node's public key and its signature, so that who the other side is needs no
//! authority.
//!
//! The verifier is this module's own, over `libp2p_tls::certificate`, for two things that
//! libp2p's does not give: a wrong node id is named in the error, and AES-GCM comes before ChaCha20
//! (most machines have instructions for it).

use std::str::FromStr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use gem_types::NodeId;
use libp2p_tls::certificate;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Names the protocol in the handshake.
pub(super) const ALPN: &[u8] = b"gem-bulk/1";

/// The node's certificate, made anew at each start.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    certificate: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Makes a certificate for `key`.
    pub(super) fn new(key: &SigningKey) -> Result<Self, String> {
        let keys = libp2p::identity::Keypair::ed25519_from_bytes(key.to_bytes()).map_err(|error| error.to_string())?;
        let (certificate, private) = certificate::generate(&keys).map_err(|error| error.to_string())?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let private = aws_lc_rs::sign::any_ecdsa_type(&private).map_err(|error| error.to_string())?;
        Ok(Credentials {
            certificate: Arc::new(CertifiedKey::new(vec![certificate], private)),
            provider: Arc::new(provider),
        })
    }

    /// For dialling `to`, and nobody else.
    pub(super) fn dial(&self, to: NodeId) -> Result<Arc<rustls::ClientConfig>, Error> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { expected: Some(to) }))
            .with_client_cert_resolver(Arc::new(Own(Arc::clone(&self.certificate))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For taking links of any node.
    pub(super) fn listen(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier { expected: None }))
            .with_cert_resolver(Arc::new(Own(Arc::clone(&self.certificate))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The node whose key the certificate proves; nothing if it is not an ed25519 key.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = certificate::parse(certificate).ok()?;
    NodeId::from_str(&parsed.peer_id().to_string()).ok()
}

/// Presents the one certificate.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Accepts one self-signed certificate of libp2p's form, of the node that is expected.
#[derive(Debug)]
struct Verifier {
    expected: Option<NodeId>,
}

impl Verifier {
    fn check(&self, own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("a node presents exactly one certificate".into()));
        }
        // `parse` checks the self-signature and the extension's signature by the node's key.
        let node = node_of(own).ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        match self.expected {
            Some(expected) if expected != node => {
                Err(Error::General(format!("node {node} answers at this address, not {expected}")))
            }
            _ => Ok(()),
        }
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)
            .ok()
            .and_then(|parsed| parsed.verify_signature(signed.scheme, message, signed.signature()).ok())
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or(Error::InvalidCertificate(CertificateError::BadSignature))
    }

    /// TLS 1.2 is not offered; should it ever be, it fails.
    fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("links need TLS 1.3".into()))
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(own, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(own, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
