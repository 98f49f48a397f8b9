//! Private keys of SSH, from files, and what is signed with them.
//!
//! Read are OpenSSH's own form and the two of PEM that `ssh-keygen` and `openssl` write (PKCS#1 for RSA, PKCS#8). Served are Ed25519, ECDSA on
//! P-256 and P-384, and RSA from 2048 to 4096 bits; of the latter SHA-2 alone is signed, which every server since OpenSSH 7.2 takes. A key
//! with a passphrase is refused, as by BuildKit: nobody is there to be asked for it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use num_bigint::BigUint;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

use super::wire::{Reader, number, text};

/// Flags of a request: how an RSA key is to sign (RFC 8332).
const SHA256: u32 = 2;
const SHA512: u32 = 4;

/// What OpenSSH's own form begins and ends with, and what stands first in it.
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const CUT_OFF: &str = "it is cut off";

/// Why a file is no key that can be served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// It has a passphrase.
    #[error("it has a passphrase, and nobody is asked for one")]
    Encrypted,
    /// There is none in it.
    #[error("there is no private key in it")]
    NoKey,
    /// It is of a kind that is not served.
    #[error("it is of a kind that is not served: {0}")]
    Kind(String),
    /// What it says is not so.
    #[error("the key in it is garbled: {0}")]
    Garbled(String),
}

/// A private key. It prints as what it is for.
#[derive(Clone)]
pub struct Key {
    pair: Arc<Pair>,
    comment: String,
    public: Vec<u8>,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

#[derive(Debug, Clone, Copy)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const ALL: [Self; 2] = [Self::P256, Self::P384];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    /// The size of a private key, in bytes.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

impl Key {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// If it has no key that can be served.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NoKey)?;
        // Variables of pipelines lose the last line break, or have those of another system.
        let mut text: String = text.trim().lines().collect::<Vec<_>>().join("\n");
        text.push('\n');
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let (pair, comment) = match text.starts_with(BEGIN) {
            true => of_openssh(&text)?,
            false => (of_pem(&text)?, String::new()),
        };
        Ok(Self { public: pair.public(), pair: Arc::new(pair), comment })
    }

    /// The public key, as the protocol writes it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What the file calls it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs; nothing if it cannot be signed in the way that is asked for.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let (name, signature) = match &*self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519".to_owned(), pair.sign(data).as_ref().to_vec()),
            Pair::Ecdsa(curve, pair) => {
                let both = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = both.as_ref().split_at_checked(both.as_ref().len() / 2)?;
                let mut signature = Vec::new();
                number(&mut signature, r);
                number(&mut signature, s);
                (format!("ecdsa-sha2-{}", curve.name()), signature)
            }
            Pair::Rsa(pair) => {
                let (name, padding) = match flags {
                    flags if flags & SHA512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & SHA256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                (name.to_owned(), signature)
            }
        };
        let mut written = Vec::new();
        text(&mut written, name.as_bytes());
        text(&mut written, &signature);
        Some(written)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("comment", &self.comment).finish_non_exhaustive()
    }
}

/// Keys are the same if what they sign is.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for Key {}

impl Pair {
    fn public(&self) -> Vec<u8> {
        let mut public = Vec::new();
        match self {
            Self::Ed25519(pair) => {
                text(&mut public, b"ssh-ed25519");
                text(&mut public, pair.public_key().as_ref());
            }
            Self::Ecdsa(curve, pair) => {
                text(&mut public, format!("ecdsa-sha2-{}", curve.name()).as_bytes());
                text(&mut public, curve.name().as_bytes());
                text(&mut public, pair.public_key().as_ref());
            }
            Self::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                text(&mut public, b"ssh-rsa");
                number(&mut public, &e);
                number(&mut public, &n);
            }
        }
        public
    }
}

fn garbled(error: impl fmt::Display) -> KeyError {
    KeyError::Garbled(error.to_string())
}

/// OpenSSH's own form: its file `PROTOCOL.key`.
fn of_openssh(text: &str) -> Result<(Pair, String), KeyError> {
    let base64: String = text.lines().take_while(|line| *line != END).skip(1).collect();
    let bytes = STANDARD.decode(base64).map_err(garbled)?;
    let inner = bytes.strip_prefix(MAGIC).and_then(|outer| {
        let mut outer = Reader(outer);
        let [cipher, _derivation, _options] = [outer.text()?, outer.text()?, outer.text()?];
        let (_count, _public) = (outer.number()?, outer.text()?);
        Some((cipher, outer.text()?))
    });
    match inner {
        None => Err(garbled(CUT_OFF)),
        Some((b"none", list)) => {
            // Twice the same: that tells a right passphrase from a wrong one.
            let mut list = Reader(list);
            match (list.number(), list.number()) {
                (Some(one), Some(other)) if one == other => {}
                _ => return Err(garbled("its check does not fit")),
            }
            let pair = of_fields(&mut list)?;
            let comment = list.text().ok_or_else(|| garbled(CUT_OFF))?;
            Ok((pair, String::from_utf8_lossy(comment).into_owned()))
        }
        Some(_) => Err(KeyError::Encrypted),
    }
}

/// The fields of one key, up to its comment.
fn of_fields(fields: &mut Reader<'_>) -> Result<Pair, KeyError> {
    let mut next = || fields.text().ok_or_else(|| garbled(CUT_OFF));
    match next()? {
        b"ssh-ed25519" => {
            let (public, both) = (next()?, next()?);
            // The seed, and the public key once more.
            let seed = both.get(..32).unwrap_or_default();
            Ok(Pair::Ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(garbled)?))
        }
        kind if kind.starts_with(b"ecdsa-") => {
            let (curve, public, private) = (next()?, next()?, next()?);
            let curve = Curve::ALL.into_iter().find(|known| known.name().as_bytes() == curve);
            let curve = curve.ok_or_else(|| KeyError::Kind(String::from_utf8_lossy(kind).into_owned()))?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                curve.algorithm(),
                &padded(private, curve.size()),
                public,
                &SystemRandom::new(),
            );
            Ok(Pair::Ecdsa(curve, pair.map_err(garbled)?))
        }
        b"ssh-rsa" => {
            let (n, e, d, inverse) = (next()?, next()?, next()?, next()?);
            let (p, q) = (next()?, next()?);
            of_numbers([n, e, d, inverse, p, q].map(without_zeros))
        }
        kind => Err(KeyError::Kind(String::from_utf8_lossy(kind).into_owned())),
    }
}

/// A number without zeros in front.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A number of just so many bytes. One that is larger stays, and is wrong.
fn padded(number: &[u8], size: usize) -> Vec<u8> {
    let number = without_zeros(number);
    let mut padded = vec![0; size.saturating_sub(number.len())];
    padded.extend_from_slice(number);
    padded
}

/// OpenSSH leaves out two of the numbers of an RSA key, which follow from the others.
fn of_numbers([n, e, d, inverse, p, q]: [&[u8]; 6]) -> Result<Pair, KeyError> {
    let exponent = |prime: &[u8]| {
        let prime = BigUint::from_bytes_be(prime);
        let one = BigUint::from(1_u8);
        if prime <= one {
            return Err(garbled("a number in it is no prime"));
        }
        Ok((BigUint::from_bytes_be(d) % (prime - one)).to_bytes_be())
    };
    let (d_p, d_q) = (exponent(p)?, exponent(q)?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &*d_p,
        dQ: &*d_q,
        qInv: inverse,
    };
    Ok(Pair::Rsa(RsaKeyPair::from_components(&components).map_err(of_rsa)?))
}

fn of_pem(text: &str) -> Result<Pair, KeyError> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::NoKey)? {
        PrivateKeyDer::Pkcs1(der) => {
            Ok(Pair::Rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(of_rsa)?))
        }
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                return Ok(Pair::Ed25519(pair));
            }
            for curve in Curve::ALL {
                if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm(), der, &SystemRandom::new()) {
                    return Ok(Pair::Ecdsa(curve, pair));
                }
            }
            Ok(Pair::Rsa(RsaKeyPair::from_pkcs8(der).map_err(of_rsa)?))
        }
        _ => Err(KeyError::Kind("a form that `ssh-keygen -p -f FILE` makes OpenSSH's own of".to_owned())),
    }
}

/// RSA is what a key is taken for that is nothing else.
fn of_rsa(error: ring::error::KeyRejected) -> KeyError {
    KeyError::Kind(format!("RSA of less than 2048 or more than 4096 bits, or something unknown ({error})"))
}

/// A file of a key that signs for nobody, with the comment `somebody`.
#[cfg(test)]
pub(crate) fn example() -> String {
    let seed = [7; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = pair.public_key().as_ref();
    let mut list = vec![1, 2, 3, 4, 1, 2, 3, 4];
    for field in [b"ssh-ed25519".as_slice(), public, &[&seed, public].concat(), b"somebody"] {
        text(&mut list, field);
    }
    let mut bytes = MAGIC.to_vec();
    for field in [b"none".as_slice(), b"none", b""] {
        text(&mut bytes, field);
    }
    bytes.extend(1_u32.to_be_bytes());
    for field in [&Pair::Ed25519(pair).public(), &list] {
        text(&mut bytes, field);
    }
    let base64 = STANDARD.encode(bytes);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn what_a_key_signs_can_be_verified_by_its_public_part() {
        let key = Key::parse(example().as_bytes()).unwrap();
        assert_eq!(key.comment(), "somebody");
        let signed = key.sign(b"data", 0).unwrap();
        let (mut public, mut signed) = (Reader(key.public()), Reader(&signed));
        assert_eq!(
            (public.text(), signed.text()),
            (Some(b"ssh-ed25519".as_slice()), Some(b"ssh-ed25519".as_slice()))
        );
        let (public, signature) = (public.text().unwrap(), signed.text().unwrap());
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"data", signature).is_ok());
        assert!(public.verify(b"other", signature).is_err());
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", Key::parse(example().as_bytes()).unwrap());
        assert_eq!(shown, r#"Key { comment: "somebody", .. }"#);
    }

    #[test]
    fn what_is_no_key_is_no_key() {
        let words = |bytes: &[u8]| Key::parse(bytes).unwrap_err();
        assert_eq!(words(b""), KeyError::NoKey);
        assert_eq!(words(b"\xff\xfe"), KeyError::NoKey);
        assert_eq!(words(b"ssh-ed25519 AAAA"), KeyError::NoKey);
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert_eq!(words(encrypted.as_bytes()), KeyError::Encrypted);
        for end in [40, 100, example().len() / 2] {
            let error = words(&example().as_bytes()[..end]);
            assert!(matches!(error, KeyError::Garbled(_) | KeyError::NoKey), "{error:?}");
        }
    }
}
