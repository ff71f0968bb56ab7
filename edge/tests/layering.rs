//! Enforces the layout: rooms import only rooms to their left, no file imports the whole crate, and no file is too long to
//! read. Cargo does not check this within one crate, so this scan of the sources does.
//!
//! The order is read from the crate doc in `lib.rs`, so that what people read is what is enforced.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of a test are test code"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest file. 500 lines: a longer one should be split.
const MAX_LINES: usize = 500;

#[test]
fn rooms_import_only_what_is_left_of_them() {
    let order = order();
    let mut offences = Vec::new();
    for file in edge_sources() {
        let room = room_of(&file);
        let rank = |name: &str| order.iter().position(|known| known == name);
        let Some(own) = rank(&room).or_else(|| (room == "lib").then_some(order.len())) else {
            offences.push(format!("{}: room `{room}` is missing from the order in lib.rs", file.display()));
            continue;
        };
        for (line, import) in imports(&read(&file)) {
            let place = format!("{}:{line}", file.display());
            match rank(&import) {
                _ if import == "*" => offences.push(format!("{place}: names the whole crate; name the room")),
                None => {
                    offences.push(format!("{place}: `crate::{import}` is no room of the order in lib.rs"));
                }
                Some(rank) if rank > own => {
                    offences.push(format!("{place}: `{room}` imports `{import}`, which is right of it"));
                }
                Some(_) => (),
            }
        }
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn files_are_of_readable_length() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let long: Vec<_> = sources(&root)
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines, {MAX_LINES} are allowed", file.display()))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[test]
fn the_scan_sees_every_way_to_import() {
    let source = "\
use crate::front::{Front, Body};
use crate::{auth::Config, listen::{tls::Tls, Listener}, self_made};
// use crate::comment
/// See [`crate::doc`].
pub(crate) fn f() -> crate::error::Error { crate::call::reply() } // crate::trailing
use crate::*;
use crate::{
    app,
    config::{self, file},
};
use mycrate::other;
";
    let found: Vec<_> = imports(source);
    let names: Vec<_> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    let wanted = [
        (1, "front"),
        (2, "auth"),
        (2, "listen"),
        (2, "self_made"),
        (5, "error"),
        (5, "call"),
        (6, "*"),
        (7, "app"),
        (7, "config"),
    ];
    assert_eq!(names, wanted);
}

/// The order `wire < ops < error, permit …` of the crate doc, from left to right.
fn order() -> Vec<String> {
    let lib = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let line = lib.lines().find(|line| line.contains("`wire < ")).expect("lib.rs states the order");
    let order = line.trim_start_matches("//!").trim().trim_matches('`');
    let rooms: Vec<String> = order.split(['<', ',']).map(|room| room.trim().to_owned()).collect();
    assert!(rooms.len() > 10 && rooms.ends_with(&["main".to_owned()]), "{rooms:?}");
    rooms
}

fn edge_sources() -> Vec<PathBuf> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn room_of(file: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = file.strip_prefix(&src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The first segment of every `crate::` path, with its line. Comments are skipped.
fn imports(source: &str) -> Vec<(usize, String)> {
    let code: Vec<_> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let line = code[..at].lines().count().max(1) + usize::from(code[..at].ends_with('\n'));
        let rest = &code[at + path.len()..];
        let first_steps = match rest.strip_prefix('{') {
            Some(group) => group_members(group),
            None => vec![first_step(rest)],
        };
        found.extend(first_steps.into_iter().map(|step| (line, step)));
    }
    found
}

/// The first segments in `a, b::{c, d}, e}`, up to the brace that closes the group.
fn group_members(group: &str) -> Vec<String> {
    let (mut depth, mut members, mut start) = (0_usize, Vec::new(), 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                members.push(first_step(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => (),
        }
        if letter == '}' && start == at + 1 {
            break;
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

fn first_step(path: &str) -> String {
    if path.starts_with('*') {
        return "*".to_owned();
    }
    path.chars().take_while(|letter| is_word(*letter)).collect()
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Every Rust file below `folder`, without build output and dependencies.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name) {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
