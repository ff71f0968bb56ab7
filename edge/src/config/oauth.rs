//! `auth.oauth`: the authorization server whose tokens are taken.

use std::fs::File;
use std::path::PathBuf;

use super::draft::Draft;
use super::file::{beside, load};
use super::reader::{At, Key, Reader};
use crate::auth::oauth::{Config, Issuer, Keys, KeysUrl, Resource, Source};

/// Puts what the file says into `draft`.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    let (mut said, before) = (OauthDraft::default(), r.problems.len());
    r.section(at, OAUTH, &mut said);
    draft.said.files.extend(said.keys_file.take());
    draft.oauth = Some(None);
    match (said.resource, said.issuer) {
        (Some(resource), Some(issuer)) => {
            let config = Config::new(resource, issuer);
            let Config { keys, principal, .. } = config.clone();
            draft.oauth = Some(Some(Config {
                keys: said.keys.unwrap_or(keys),
                audience: said.audience,
                scopes: said.scopes,
                principal: said.principal.unwrap_or(principal),
                authorities: said.authorities,
                ..config
            }));
        }
        _ if r.problems.len() > before => (), // said already
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
    ("resource", |r, at, said| said.resource = r.parsed(at)),
    ("issuer", |r, at, said| said.issuer = r.parsed(at)),
    ("keys", keys),
    ("audience", |r, at, said| said.audience = r.texts(at)),
    ("scopes", |r, at, said| said.scopes = r.list(at).iter().filter_map(|item| scope(r, item)).collect()),
    ("principal", |r, at, said| said.principal = r.text(at)),
    ("ca", |r, at, said| {
        let Some(path) = r.text(at).map(|path| beside(r.file, &path)) else { return };
        match File::open(&path) {
            Ok(_) => said.authorities = Some(path),
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
        // Looked at while serving, also if it is faulty now.
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

fn keys(r: &mut Reader<'_>, at: &At<'_>, said: &mut OauthDraft) {
    let (mut keys, before) = (KeysDraft::default(), r.problems.len());
    r.section(at, KEYS, &mut keys);
    let KeysDraft { mut found, file } = keys;
    said.keys_file = file;
    match (found.pop(), found.is_empty()) {
        (Some(source), true) => said.keys = Some(source),
        _ if r.problems.len() > before => (), // said already
        _ => r.problem(
            at,
            "either `url` or `file` says where the keys are; without `keys` they are found by the issuer's metadata",
        ),
    }
}

/// One scope, in letters that a challenge can carry.
// RFC 6749 §3.3, scope-token
fn scope(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = r.text(at)?;
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if !fits {
        r.problem(at, format!("`{text}` is no scope; list them one by one, for example [mcp, tools]"));
    } else if text == "offline_access" {
        // MCP 2026-07-28 basic/authorization: neither in challenges nor in metadata
        r.problem(
            at,
            "`offline_access` is for the client to ask of the issuer; no token for this gateway needs it",
        );
    }
    (fits && text != "offline_access").then_some(text)
}

/// A key set is some kilobytes; more than this is some other file.
const MAX_BYTES: u64 = 1 << 20;
