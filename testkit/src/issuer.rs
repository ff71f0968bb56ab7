//! An authorization server as a resource server sees it: metadata and keys over HTTP on loopback, and tokens signed as a test
//! asks, including invalid ones.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A private key of one kind, with a name.
pub struct Signer {
    /// Its `kid`.
    pub id: String,
    /// The algorithm of its tokens; must be one of its kind.
    pub algorithm: &'static str,
    key: Key,
}

enum Key {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    /// A new key for this algorithm; the one for RSA is always the same.
    pub fn new(id: &str, algorithm: &'static str) -> Signer {
        let random = SystemRandom::new();
        let ec = |how: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            Key::Ec(EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).unwrap())
        };
        let key = match algorithm {
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" | "Ed25519" => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Key::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
            _ => Key::Rsa(Box::new(RsaKeyPair::from_der(RSA).unwrap())),
        };
        Signer { id: id.to_owned(), algorithm, key }
    }

    /// The public key as a member of a key set.
    pub fn public(&self) -> Value {
        let mut key = match &self.key {
            Key::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Key::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
            Key::Rsa(pair) => {
                let public: RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": base64url(&public.n), "e": base64url(&public.e)})
            }
        };
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    /// A token of these claims, with the usual header.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": self.algorithm, "kid": self.id, "typ": "at+jwt"}), claims)
    }

    /// A token with this header and these claims, signed with this key even if the header names another one.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Key::Rsa(pair) => {
                let how: &dyn RsaEncoding = match self.algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(how, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", base64url(&signature))
    }
}

/// A key set of these.
pub fn key_set(signers: &[&Signer]) -> Value {
    json!({"keys": signers.iter().map(|signer| signer.public()).collect::<Vec<_>>()})
}

/// A part of a token.
pub fn part(value: &Value) -> String {
    base64url(value.to_string().as_bytes())
}

/// RFC 4648 §5, without padding.
pub fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0_usize, |bits, place| bits << 8 | usize::from(*chunk.get(place).unwrap_or(&0)));
        text.extend((0..=chunk.len()).map(|place| char::from(LETTERS[bits >> (18 - 6 * place) & 63])));
    }
    text
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The server; it ends with its guard.
pub struct Issuer {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    /// What is served at `/jwks`; `Null`: everything is answered 500.
    keys: Mutex<Value>,
    /// Asked for keys.
    fetches: AtomicUsize,
}

impl Issuer {
    /// On a free port, with the keys of these.
    pub async fn start(signers: &[&Signer]) -> Issuer {
        Issuer::start_at("127.0.0.1:0".parse().unwrap(), signers).await
    }

    /// Starts an issuer at this address.
    pub async fn start_at(address: SocketAddr, signers: &[&Signer]) -> Issuer {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { keys: Mutex::new(key_set(signers)), fetches: AtomicUsize::new(0) });
        let serving = tokio::spawn(serve(listener, address, shared.clone()));
        Issuer { address, shared, serving }
    }

    /// The issuer's identifier, as in `iss`.
    pub fn name(&self) -> String {
        format!("http://{}/realms/test", self.address)
    }

    /// Publishes the keys of `signers` from now on. Without signers it answers with errors.
    pub fn publish(&self, signers: &[&Signer]) {
        *self.shared.keys.lock().unwrap() = if signers.is_empty() { Value::Null } else { key_set(signers) };
    }

    /// Publishes any JSON as the key set from now on.
    pub fn publish_set(&self, keys: Value) {
        *self.shared.keys.lock().unwrap() = keys;
    }

    /// How often the keys were fetched.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::Relaxed)
    }

    /// The claims of a valid token for `audience`, for one minute.
    pub fn claims(&self, audience: &str, subject: &str) -> Value {
        json!({
            "iss": self.name(), "aud": audience, "sub": subject, "scope": "mcp", "client_id": "test",
            "iat": now(), "exp": now() + 60, "jti": format!("{}", rand()),
        })
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn rand() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut request).await, Ok(bytes) if bytes > 0) {
                break;
            }
        }
        let keys = shared.keys.lock().unwrap().clone();
        let issuer = format!("http://{address}/realms/test");
        let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, body) = match path.as_str() {
            _ if keys.is_null() => ("500 Internal Server Error", Value::Null),
            // Where Keycloak has it: the third place that is looked at.
            "/realms/test/.well-known/openid-configuration" => {
                ("200 OK", json!({"issuer": issuer, "jwks_uri": format!("http://{address}/jwks")}))
            }
            "/jwks" => {
                shared.fetches.fetch_add(1, Ordering::Relaxed);
                ("200 OK", keys)
            }
            _ => ("404 Not Found", Value::Null),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

/// A key of 2,048 bits that signs nothing but tokens of tests: making one takes seconds.
const RSA: &[u8] = include_bytes!("issuer/rsa.der");
