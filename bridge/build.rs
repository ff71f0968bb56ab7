//! Links the static binary small, because it is copied into every server's container.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=no-unwind.ld");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    if !variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static") {
        return;
    }
    // A static-pie relocates itself by a table of 24 bytes an address; packed it takes a bit or two each (50 KB less).
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Optimising for size is the mark of the bridge's profile, the one that aborts; Cargo does not tell a build script
    // the panic strategy of a profile.
    if variable("OPT_LEVEL") == "s" {
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/no-unwind.ld", variable("CARGO_MANIFEST_DIR"));
    }
}
