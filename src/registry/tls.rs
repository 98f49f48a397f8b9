//! Trust: root certificates, hosts whose certificate is not checked, client certificates. One provider: `ring`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::options::{ClientOptions, HostOptions, Identity, TrustStore};

type Certificate = CertificateDer<'static>;

/// Makes `ring` the provider of every TLS library in this program that asks for the process's default. This
/// room itself names its provider and does not need it. Calling it again does nothing.
pub fn install_tls_provider() {
    // An error says that there is one already, which is all that is wanted.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}

/// The roots that hold for every host: the system's or else the carried ones, and those the options add.
pub(crate) struct Roots {
    system: Vec<Certificate>,
    extra: Vec<Certificate>,
}

impl Roots {
    /// Reads the roots that `options` name.
    ///
    /// # Errors
    /// In words, if a place that the user named cannot be read or holds no certificate.
    pub(crate) fn load(options: &ClientOptions) -> Result<Self, String> {
        let mut extra = Vec::new();
        for pem in &options.extra_roots {
            extra.extend(certificates(pem)?);
        }
        Ok(Self { system: system(&options.trust)?, extra })
    }

    /// The TLS configuration for hosts with `special` properties.
    ///
    /// # Errors
    /// In words, if a certificate or key of the options is none.
    pub(crate) fn config(&self, special: &HostOptions) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut pinned = self.extra.clone();
        for pem in &special.extra_roots {
            pinned.extend(certificates(pem)?);
        }
        let verifier: Arc<dyn ServerCertVerifier> = if special.untrusted_certificate {
            Arc::new(AnyCertificate { provider: provider.clone() })
        } else {
            Arc::new(Trusted { chain: self.verifier(&pinned, &provider)?, pinned })
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &special.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = parse_identity(identity)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("the client certificate does not work: {error}"))?
            }
        };
        // One stream a connection: parallel uploads on one HTTP/2 connection share one window.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn verifier(
        &self,
        extra: &[Certificate],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, String> {
        let mut store = RootCertStore::empty();
        // A system's bundle may hold a certificate that this library cannot read; the others still count.
        store.add_parsable_certificates(self.system.iter().cloned());
        store.add_parsable_certificates(extra.iter().cloned());
        if self.system.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(|error| error.to_string())
    }
}

/// The TLS configuration for hosts that are no registries: of them nothing special is known.
///
/// # Errors
/// As [`system_roots`].
pub fn tls_config(trust: &TrustStore) -> Result<ClientConfig, String> {
    Roots { system: system(trust)?, extra: Vec::new() }.config(&HostOptions::default())
}

/// The certificates that `trust` names or finds on this machine, in DER; empty where there are none and nobody named a
/// place.
///
/// # Errors
/// In words, if a place that the user named cannot be read or holds no certificate.
pub fn system_roots(trust: &TrustStore) -> Result<Vec<Vec<u8>>, String> {
    Ok(system(trust)?.iter().map(|certificate| certificate.as_ref().to_vec()).collect())
}

/// The system's certificates; empty where there are none and nobody named a place.
fn system(trust: &TrustStore) -> Result<Vec<Certificate>, String> {
    let mut found = Vec::new();
    for file in &trust.files {
        match std::fs::read(file) {
            Ok(pem) => found.extend(all_certificates(&pem)),
            Err(error) if trust.named => {
                return Err(format!("cannot read certificates from `{}`: {error}", file.display()));
            }
            Err(_) => continue,
        }
        if !trust.named && !found.is_empty() {
            break;
        }
    }
    for directory in &trust.directories {
        // Of several directories some need not be there: that is how the variable is used.
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        found.extend(files.iter().flat_map(|file| from_file(file)));
    }
    if found.is_empty() && trust.named {
        return Err("SSL_CERT_FILE and SSL_CERT_DIR name no certificate".to_owned());
    }
    Ok(found)
}

fn from_file(file: &Path) -> Vec<Certificate> {
    // A directory of certificates holds other files too.
    std::fs::read(file).map(|pem| all_certificates(&pem)).unwrap_or_default()
}

/// The certificates in `pem`, leaving out what is none.
fn all_certificates(pem: &[u8]) -> Vec<Certificate> {
    CertificateDer::pem_slice_iter(pem).flatten().collect()
}

/// The certificates in `pem`, of which there must be one.
fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("a root certificate is not PEM: it has no `BEGIN CERTIFICATE`".to_owned()),
        Err(error) => Err(format!("a root certificate cannot be read: {error}")),
    }
}

fn parse_identity(identity: &Identity) -> Result<(Vec<Certificate>, PrivateKeyDer<'static>), String> {
    let chain = certificates(&identity.certificates)
        .map_err(|_| "the client certificate is not a PEM certificate".to_owned())?;
    // The library's error may quote the key's surroundings: it is not shown.
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())
        .map_err(|_| "the client certificate's key is not a PEM private key".to_owned())?;
    Ok((chain, key))
}

/// Verifies against the roots, and takes a certificate that the user handed in as it is.
///
/// A registry's self-signed certificate is usually given as "its CA". Strict verification refuses it, because
/// such a certificate says that it is a CA and no server; Go and OpenSSL take it, and so does everyone's set-up.
/// Here it counts if it is the very certificate that was handed in and the name fits.
#[derive(Debug)]
struct Trusted {
    chain: Arc<WebPkiServerVerifier>,
    pinned: Vec<Certificate>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let is_pinned = self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref());
        match verified {
            // Time is checked before anything else, so what has expired is refused here too.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if is_pinned =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes any certificate, for a host the user said so of. The handshake's signature is still checked.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
