use proptest::prelude::*;

use super::*;

/// What servers list, and what pydantic 2.13 (`AnyUrl`, as in mcp 1.x and fastmcp) makes of it.
#[test]
fn clients_spellings_have_the_canonical_form_of_the_listed_ones() {
    for (listed, sent) in [
        ("file:///vault/Meeting notes.md", "file:///vault/Meeting%20notes.md"),
        ("file:///vault/Übersicht.md", "file:///vault/%C3%9Cbersicht.md"),
        ("vault://Notes/My File.md", "vault://Notes/My%20File.md"),
        ("postgres://host/Tab le/schema", "postgres://host/Tab%20le/schema"),
        ("https://Example.com", "https://example.com/"),
        ("HTTPS://Example.COM:443/a%7eb", "https://example.com/a%7eb"),
        ("file:///a/../b.txt", "file:///b.txt"),
        ("file:///a/./b/..", "file:///a/"),
        ("file:///a/%2e%2E/b.txt", "file:///b.txt"),
        ("file://localhost/x", "file:///x"),
        ("file:/etc/hosts", "file:///etc/hosts"),
        ("file:etc", "file:///etc"),
        (r"file://C:\Users\me\a b.md", "file:///C:/Users/me/a%20b.md"),
        (r"file:///C:\Users\a.md", "file:///C:/Users/a.md"),
        (" memo:a b/../c", "memo:a b/../c"),
        ("memo:/a/../b", "memo:/b"),
        ("memo:/.//x/y", "memo:/.//x/y"),
        ("memo://Host:0080/x", "memo://Host:80/x"),
        ("memo://a:/x", "memo://a/x"),
        (r#"vault://n/a\b|c^d`e{f}"<g>"#, r"vault://n/a\b|c^d%60e%7Bf%7D%22%3Cg%3E"),
        ("file:///vault/[note] #1?.md", "file:///vault/[note]%20#1?.md"),
        ("file:///100% sure.md", "file:///100%%20sure.md"),
        ("http://host/s?q='a b'#x y#z", "http://host/s?q=%27a%20b%27#x%20y#z"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("s3://Bucket/a b", "s3://Bucket/a%20b"),
        ("MEMO://Foo", "memo://Foo"),
        ("x://[::AB]/", "x://[::ab]/"),
        ("file://Host/x", "file://host/x"),
        ("https://u:p@H/x", "https://u:p@h/x"),
        ("m:/a/b/../../../c", "m:/c"),
        ("file:///a//b/../c", "file:///a//c"),
        ("vault://Ünï/x", "vault://%C3%9Cn%C3%AF/x"),
        ("http://host:8080", "http://host:8080/"),
        ("data:text/plain,Ä b", "data:text/plain,%C3%84 b"),
        ("x://a/b\tc\nd ", "x://a/bcd"),
    ] {
        assert_eq!(canonical(listed), canonical(sent), "{listed} {sent}");
        assert!(canonical(listed).is_some(), "{listed}");
    }
}

#[test]
fn the_form_is_what_the_standards_say() {
    for (uri, form) in [
        ("eXAMPLE://a/./b/../b/%63/%7bfoo%7d", "example://a/b/c/%7Bfoo%7D"),
        ("vault://Notes/My File.md", "vault://Notes/My%20File.md"),
        ("VAULT://u@A%42:070?x", "vault://u@AB:70?x"),
        ("HTTP://A%42", "http://ab/"),
        ("file://HOST", "file://host/"),
        ("x://[::AB]", "x://[::ab]"),
        ("file:///100% sure.md", "file:///100%25%20sure.md"),
        ("memo:/.//x/y", "memo:/.//x/y"),
        ("file://C:/x", "file:///C:/x"),
    ] {
        assert_eq!(canonical(uri).as_deref(), Some(form));
    }
}

#[test]
fn other_identifiers_have_other_forms() {
    for (one, other) in [
        ("x://a/b", "x://a/B"),
        ("x://u@a/b", "x://U@a/b"),
        ("note://a", "note://A"),
        ("note://a:1/", "note://A:1/"),
        ("memo://Foo", "memo://Foo/"),
        ("memo://Foo?x", "memo://Foo/?x"),
        ("memo://", "memo:///"),
        ("x://a/b%2Fc", "x://a/b/c"),
        ("x://a/b%3Fc", "x://a/b?c"),
        ("x://a/b%23c", "x://a/b#c"),
        ("x://a/b%2520c", "x://a/b%20c"),
        ("x://a/b+c", "x://a/b%20c"),
        ("x://a/b+c", "x://a/b%2Bc"),
        ("x://a/b?c", "x://a/b"),
        ("x://a/b/", "x://a/b"),
        ("x://a/?q=/../b", "x://a/?q=/b"),
        ("x:a/../b", "x:b"),
        ("memo:/.//x/y", "memo://x/y"),
        ("http://a:8080/", "http://a/"),
        ("x://a:80/", "x://a/"),
        (r"x://a\b/c", "x://a/b/c"),
        ("file:///C:/x", "file://c/x"),
    ] {
        assert_ne!(canonical(one), canonical(other), "{one} {other}");
    }
    for none in ["no scheme", ":x", "1m://a", "+a:b", "http:", "http::/..//./", "ws://u@:1/x"] {
        assert_eq!(canonical(none), None, "{none}");
    }
    let long = |bytes| canonical(&format!("x://{}", "a".repeat(bytes - 4))).is_some();
    assert_eq!((long(URI_BYTES), long(URI_BYTES + 1)), (true, false));
}

/// Text with much of what parsers treat in some way of its own.
fn uris() -> impl Strategy<Value = String> {
    let odd = r#"(http|HTTPS|file|x)?(:|:/|://|://u@|://H:80)([a-zA-Z0-9/.:@?#\[\]%\\ '{\+é]|/\.\./|/\./|%2[eEfF5]|%[cC]3){0,16}"#;
    prop_oneof![odd, any::<String>()]
}

proptest! {
    /// Whatever clients send, the form is ASCII and stays as it is.
    #[test]
    fn the_form_is_its_own_form(uri in uris()) {
        if let Some(form) = canonical(&uri) {
            prop_assert!(form.bytes().all(|byte| byte.is_ascii_graphic()), "{form:?}");
            prop_assert_eq!(canonical(&form), Some(form));
        }
    }

    /// A client may encode any character of a path that delimits nothing.
    #[test]
    fn encoding_changes_no_form(path in "[^\t\r\n/?#%:@!$&'()*+,;=.\\\\]{1,20}", mask in any::<u32>()) {
        let path = format!("-{path}-");
        let encode = |(at, one): (usize, char)| match mask >> (at % 32) & 1 {
            0 => one.to_string(),
            _ => one.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect(),
        };
        let encoded: String = path.chars().enumerate().map(encode).collect();
        for prefix in ["file:///", "vault://Host/a/", "memo:"] {
            prop_assert_eq!(canonical(&format!("{prefix}{path}")), canonical(&format!("{prefix}{encoded}")));
        }
    }
}
