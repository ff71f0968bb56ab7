//! `auth.oauth`: the authorization server whose tokens are accepted.

use std::fs::File;
use std::path::PathBuf;

use super::draft::Draft;
use super::file::{beside, load};
use super::reader::{At, Key, Reader};
use crate::auth::oauth::{Config, Issuer, Keys, KeysUrl, Resource, Source};

/// Reads the section into `draft`.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    let (mut oauth, before) = (OauthDraft::default(), r.problems.len());
    r.section(at, OAUTH, &mut oauth);
    draft.files.files.extend(oauth.keys_file.take());
    draft.oauth = Some(None);
    match (oauth.resource, oauth.issuer) {
        (Some(resource), Some(issuer)) => {
            let config = Config::new(resource, issuer);
            let Config { keys, principal, .. } = config.clone();
            draft.oauth = Some(Some(Config {
                keys: oauth.keys.unwrap_or(keys),
                audience: oauth.audience,
                scopes: oauth.scopes,
                principal: oauth.principal.unwrap_or(principal),
                authorities: oauth.authorities,
                ..config
            }));
        }
        _ if r.problems.len() > before => (), // reported already
        _ => r.problem(
            at,
            "both `resource` and `issuer` belong here: the URI of this gateway as its clients write it, and who makes \
             their tokens",
        ),
    }
}

#[derive(Default)]
struct OauthDraft {
    resource: Option<Resource>,
    issuer: Option<Issuer>,
    keys: Option<Source>,
    keys_file: Option<PathBuf>,
    audience: Vec<String>,
    scopes: Vec<String>,
    principal: Option<String>,
    authorities: Option<PathBuf>,
}

const OAUTH: &[Key<OauthDraft>] = &[
    ("resource", |r, at, oauth| oauth.resource = r.parsed(at)),
    ("issuer", |r, at, oauth| oauth.issuer = r.parsed(at)),
    ("keys", keys),
    ("audience", |r, at, oauth| oauth.audience = r.texts(at)),
    ("scopes", |r, at, oauth| oauth.scopes = r.list(at).iter().filter_map(|item| scope(r, item)).collect()),
    ("principal", |r, at, oauth| oauth.principal = r.text(at)),
    ("ca", |r, at, oauth| {
        let Some(path) = r.text(at).map(|path| beside(r.file, &path)) else { return };
        match File::open(&path) {
            Ok(_) => oauth.authorities = Some(path),
            Err(error) => r.problem(at, format!("{} cannot be read: {error}", path.display())),
        }
    }),
];

#[derive(Default)]
struct KeysDraft {
    found: Vec<Source>,
    file: Option<PathBuf>,
}

const KEYS: &[Key<KeysDraft>] = &[
    ("url", |r, at, keys| keys.found.extend(r.parsed::<KeysUrl>(at).map(Source::Url))),
    ("file", |r, at, keys| {
        let Some(path) = r.text(at).map(|path| beside(r.file, &path)) else { return };
        // Watched while serving, also if it is invalid now.
        keys.file = Some(path.clone());
        match load(&path, MAX_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|text| Keys::parse(text.as_bytes()))
        {
            Ok(read) => keys.found.push(Source::File(read)),
            Err(why) => r.problem(at, format!("{} cannot be used: {why}", path.display())),
        }
    }),
];

fn keys(r: &mut Reader<'_>, at: &At<'_>, oauth: &mut OauthDraft) {
    let (mut keys, before) = (KeysDraft::default(), r.problems.len());
    r.section(at, KEYS, &mut keys);
    let KeysDraft { mut found, file } = keys;
    oauth.keys_file = file;
    match (found.pop(), found.is_empty()) {
        (Some(source), true) => oauth.keys = Some(source),
        _ if r.problems.len() > before => (), // reported already
        _ => r.problem(
            at,
            "either `url` or `file` says where the keys are; without `keys` they are found by the issuer's metadata",
        ),
    }
}

/// One scope, of characters that a challenge can carry.
// RFC 6749 §3.3, scope-token
fn scope(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = r.text(at)?;
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if !fits {
        r.problem(at, format!("`{text}` is not a scope; list them one by one, for example [mcp, tools]"));
    } else if text == "offline_access" {
        // MCP 2026-07-28 basic/authorization: neither in challenges nor in metadata
        r.problem(
            at,
            "`offline_access` is for clients to request from the issuer; no token for this gateway needs it",
        );
    }
    (fits && text != "offline_access").then_some(text)
}

/// The largest key set that is read. 1 MiB: key sets have some kilobytes.
const MAX_BYTES: u64 = 1 << 20;
