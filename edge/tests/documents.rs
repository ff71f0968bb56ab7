//! The documents against the sources: every setting and every metric is described, and what is named exists.

#![expect(clippy::expect_used, clippy::panic, reason = "the helpers of a test are test code")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_setting_is_in_the_reference() {
    let documented = first_cells(&read("docs/configuration.md"));
    let keys: BTreeSet<String> = sources("edge/src/config")
        .iter()
        .flat_map(|source| tables(source).flat_map(keys).collect::<Vec<_>>())
        .collect();
    assert!(keys.contains("call_timeout") && keys.contains("audience"), "the scan finds keys: {keys:?}");
    // These have no row: headings of their own tables, and what the text describes.
    let described = ["limits", "servers", "tools", "url", "file"].map(str::to_owned);
    let missing: Vec<_> = keys.difference(&documented).filter(|key| !described.contains(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md has no row for {missing:?}");
}

#[test]
fn every_metric_is_in_the_reference_and_no_other() {
    let registered: BTreeSet<String> =
        sources("edge/src").iter().flat_map(|source| registered(source)).collect();
    assert!(registered.contains("refused") && registered.contains("in_flight"), "{registered:?}");
    let text = read("docs/metrics.md");
    let (_, reference) = text.split_once("## All of them").expect("the reference has its heading");
    let documented: BTreeSet<String> =
        first_cells(reference).iter().map(|name| bare(name).to_owned()).collect();
    let missing: Vec<_> = registered.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&registered).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, not registered {unknown:?}");
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document is text");
        let folder = document.with_file_name("");
        let places = [root(), root().join("edge/src"), root().join("edge/tests"), root().join("k8s"), folder];
        let is_file = |name: &&str| {
            let ends = [".rs", ".md", ".py", ".sh", ".svg"].iter().any(|end| name.ends_with(end));
            let room = ["front/", "upstream/"].iter().any(|room| name.starts_with(room));
            name.contains('/')
                && (ends || room)
                && !name.contains([' ', '{', '<', '*', '$', ':', '~'])
                && !name.starts_with('/')
                && !name.starts_with("bench/out/") // what a run of the bench writes
        };
        for name in quoted(&text).filter(is_file) {
            seen += 1;
            let exists = places.iter().any(|place| place.join(name).exists());
            assert!(exists, "{} names {name}", document.display());
        }
    }
    assert!(seen > 20, "the scan finds names: {seen}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document is text");
        for (_, rest) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let target = rest.split(')').next().unwrap_or_default();
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let file = if file.is_empty() { document.clone() } else { document.with_file_name(file) };
            assert!(file.exists(), "{} links to {target}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).expect("a linked document is text");
                let has =
                    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(has, "{} links to {target}, and there is no such heading", document.display());
            }
        }
    }
    assert!(seen > 40, "the scan finds links: {seen}");
}

/// Every document of the repository that people read.
fn documents() -> Vec<PathBuf> {
    let top =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let folders =
        ["docs", "bridge", "bench", "k8s", "k8s/docs", "shared/benches", "shared/fuzz", "bench/peers"];
    let below =
        folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).expect("the folder is there"));
    let below = below.flatten().map(|entry| entry.path());
    top.into_iter().chain(below.filter(|path| path.extension().is_some_and(|end| end == "md"))).collect()
}

/// The words of the first cells of tables that stand within back quotes.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.flat_map(|row| words(row.split(" | ").next().unwrap_or_default())).collect()
}

/// The texts of the tables `const NAME: &[Key<…>] = &[ … ];`.
fn tables(source: &str) -> impl Iterator<Item = &str> {
    source.split(": &[Key<").skip(1).filter_map(|rest| rest.split("];").next())
}

/// The first member of each entry: `("key", …`.
fn keys(table: &str) -> impl Iterator<Item = String> {
    table
        .split("(\"")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("\",")?.0))
        .filter(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .map(str::to_owned)
}

/// The names given to `register(`, `register_with_unit(` and, of a collector, `gauge(`, outside tests.
fn registered(source: &str) -> Vec<String> {
    let source = source.split("mod tests {").next().unwrap_or_default();
    [".register(", ".register_with_unit(", " gauge("]
        .iter()
        .flat_map(|call| source.split(call).skip(1))
        .filter_map(|rest| rest.trim_start().strip_prefix('"'))
        .filter_map(|rest| rest.split('"').next().map(str::to_owned))
        .collect()
}

/// A metric's name as it is registered: without what the encoder adds, and without the room's prefix.
fn bare(name: &str) -> &str {
    let name = name.strip_prefix("upstream_").unwrap_or(name);
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name {
        "received_bytes" => "received",
        "sent_bytes" => "sent",
        "build_info" => "build",
        "call_duration_seconds" => "call_duration",
        _ => name,
    }
}

/// The words within back quotes.
fn words(text: &str) -> BTreeSet<String> {
    quoted(text)
        .flat_map(|quoted| quoted.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_'))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The link to a heading, as forges make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// Every source below `folder`, in one string each.
fn sources(folder: &str) -> Vec<String> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is there").flatten() {
            let path = entry.path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => {
                    found.push(fs::read_to_string(&path).expect("sources are text"));
                }
                _ => (),
            }
        }
    }
    found
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
