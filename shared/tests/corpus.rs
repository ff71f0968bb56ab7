//! The seeds of the fuzz targets, and messages captured from real servers, through the checks that the targets make.

#[path = "../fuzz/src/lib.rs"]
#[allow(clippy::expect_used, clippy::indexing_slicing, reason = "a check fails by panicking")]
#[allow(unreachable_pub, reason = "the fuzz targets' own crate exports them")]
mod checks;

use std::path::Path;

/// Calls `check` with each file of a folder, told by name so that a failure shows which.
#[expect(clippy::print_stdout, reason = "a failing test shows what it printed last")]
fn each_file(folder: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        println!("{}", entry.path().display());
        check(&std::fs::read(entry.path()).unwrap_or_default());
        files += 1;
    }
    assert!(files > 0, "no seeds in {}", folder.display());
}

#[test]
fn frame() {
    each_file("fuzz/seeds/frame", checks::frame::check);
}

#[test]
fn envelope() {
    each_file("fuzz/seeds/envelope", checks::envelope::check);
    each_file("benches/data", checks::envelope::check);
}

#[test]
fn splice() {
    each_file("fuzz/seeds/splice", checks::splice::check);
}

#[test]
fn header() {
    each_file("fuzz/seeds/header", checks::header::check);
}
