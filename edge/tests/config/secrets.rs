//! Tokens and keys, and what replicas need of them.

use super::*;

#[test]
fn nobody_listens_to_a_network_without_a_token() {
    let said = run(&["--servers=time"], &[]).unwrap_err();
    assert!(said.contains("MCP_GATEWAY_AUTH_TOKEN") && said.contains("--allow-unauthenticated"), "{said}");
    assert!(run(&["--servers=time"], &[("MCP_GATEWAY_AUTH_TOKEN", " \n")]).is_err(), "blank is not set");
    for (args, open) in [
        (&["--servers=time", "--allow-unauthenticated"][..], true),
        (&["--servers=time", "--host=127.0.0.1"], true),
        (&["--servers=time", "--listen=localhost:1"], true),
        (&["--servers=time", "--listen=10.0.0.1:1"], false),
        (&["--servers=time", "--listen=edge.internal:1"], false),
    ] {
        match run(args, &[]) {
            Ok(Command::Serve(config)) => assert!(open && config.auth.allow_unauthenticated, "{args:?}"),
            other => assert!(!open, "{args:?}: {other:?}"),
        }
    }
    let token = serve(&["--servers=time", "--allow-unauthenticated"]).auth;
    assert!(
        !token.allow_unauthenticated && token.tokens.len() == 1,
        "a token is asked for where there is one"
    );
}

#[test]
fn tokens_that_cannot_work_are_refused() {
    let file = Written::new("tokens", "auth: {tokens: [{env: A}, {env: B}, {env: C}]}");
    let env = [("A", "same"), ("B", "same"), ("MCP_GATEWAY_AUTH_TOKEN", "unused")];
    let said = run(&["--config", &file.path(), "--servers=time"], &env).unwrap_err();
    assert!(said.contains("auth.tokens[1]: the variable B holds the same token"), "{said}");
    assert!(said.contains("auth.tokens[2]: the variable C is not set"), "{said}");
    let said = run(&["--servers=time"], &[("MCP_GATEWAY_AUTH_TOKEN", "two words")]).unwrap_err();
    assert!(
        said.contains("MCP_GATEWAY_AUTH_TOKEN holds characters") && !said.contains("two words"),
        "{said}"
    );
}

#[test]
fn local_servers_do_not_inherit_tokens_and_keys() {
    let text = "auth: {tokens: [{env: A}]}\nservers: {x: {command: [x]}}";
    let file = Written::new("withheld", text);
    match run(&["--config", &file.path()], &[("A", "secret")]) {
        Ok(Command::Serve(config)) => {
            assert_eq!(config.upstream.withheld, ["A", "MCP_GATEWAY_AUTH_TOKEN", "MCP_EDGE_KEY"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_may_be_in_files_beside_the_configuration() {
    let text = "servers: {a: {}}\nauth: {tokens: [{file: token, principal: ci}, {env: B}]}";
    let file = Written::new("token-files", text);
    let missing = run(&["--config", &file.path()], &[("B", "other")]).unwrap_err();
    assert!(missing.contains("auth.tokens[0]: the file ") && missing.contains("cannot be read"), "{missing}");
    for (held, why) in
        [(" \n", "is empty; it must hold the token"), ("other\n", ""), ("a b", "no Authorization")]
    {
        fs::write(file.0.join("token"), held).unwrap();
        let said = run(&["--config", &file.path()], &[("B", "other")]).unwrap_err();
        assert!(said.contains(why) && !said.contains("a b"), "{said}");
    }
    fs::write(file.0.join("token"), "x".repeat(4097)).unwrap();
    let said = run(&["--config", &file.path()], &[("B", "other")]).unwrap_err();
    assert!(said.contains("it is larger than 4 KiB"), "half a token is none: {said}");
    fs::write(file.0.join("token"), "hunter2\n").unwrap();
    let Ok(Command::Serve(config)) = run(&["--config", &file.path()], &[("B", "other")]) else {
        panic!("it is valid")
    };
    let principals: Vec<_> = config.auth.tokens.iter().map(|token| token.principal.as_str()).collect();
    assert_eq!(principals, ["ci", "default"]);
    assert_eq!(config.files.files(), [file.0.join("edge.yaml"), file.0.join("token")]);
}

#[test]
fn replicas_need_a_key_and_an_address() {
    let key = ("MCP_EDGE_KEY", "k".repeat(32));
    let home = |args: &[&str], env: &[(&str, &str)]| match run(args, &[&[TOKEN], env].concat()) {
        Ok(Command::Serve(config)) => Ok(config.seal.home.address().map(|address| address.to_string())),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    let key = (key.0, key.1.as_str());
    let reached = |address| ("MCP_EDGE_PEER_ADDRESS", address);
    assert_eq!(home(&["--servers=a"], &[key, reached("10.0.0.7")]), Ok(None), "it is alone");
    let args = ["--servers=a", "--peers=[::]:4445"];
    for (address, at) in [
        ("10.0.0.7", "10.0.0.7:4445"),
        ("10.0.0.7:1", "10.0.0.7:1"),
        ("fd00::7", "[fd00::7]:4445"),
        ("[fd00::7]:1", "[fd00::7]:1"),
    ] {
        assert_eq!(home(&args, &[key, reached(address)]), Ok(Some(at.to_owned())));
    }
    assert_eq!(home(&["--servers=a", "--peers=10.0.0.7:4445"], &[key]), Ok(Some("10.0.0.7:4445".to_owned())));
    for (args, env, why) in [
        (&args[..], &[reached("10.0.0.7")][..], "need one key in common: set MCP_EDGE_KEY"),
        (&args, &[key], "`[::]:4445` is no address at which others reach this one"),
        (&args, &[key, reached("edge-0")], "MCP_EDGE_PEER_ADDRESS: `edge-0` is no address"),
        (&["--servers=a", "--peers=4445"], &[key], "--peers: `4445` is no address"),
    ] {
        let error = home(args, env).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let file = Written::new("peers", "servers: {a: {}}\npeers: {address: 10.0.0.7}");
    let error = home(&["--config", &file.path()], &[key]).unwrap_err();
    assert!(error.contains("edge.yaml:2: peers.address: nobody listens there"), "{error}");
}

#[test]
fn keys_come_from_a_variable_or_a_file() {
    let (new, old) = ("n".repeat(32), "o".repeat(32));
    let keys = |args: &[&str], env: &[(&str, &str)]| match run(args, &[env, &[TOKEN]].concat()) {
        Ok(Command::Serve(config)) => Ok((config.seal.current, config.seal.previous)),
        Err(said) => Err(said),
        other => panic!("{other:?}"),
    };
    let (current, previous) = (new.parse().ok(), old.parse().ok());
    assert_eq!(keys(&["--servers=a"], &[]), Ok((None, None)), "one is made at start");
    assert_eq!(keys(&["--servers=a"], &[("MCP_EDGE_KEY", "\n")]), Ok((None, None)));
    assert_eq!(keys(&["--servers=a"], &[("MCP_EDGE_KEY", &new)]), Ok((current.clone(), None)));
    let both = format!("{new},{old}\n");
    assert_eq!(keys(&["--servers=a"], &[("MCP_EDGE_KEY", &both)]), Ok((current.clone(), previous.clone())));

    let file = Written::new("keys", "servers: {a: {}}\nsession_keys: [{file: new.key}, {env: OLD_KEY}]");
    fs::write(file.0.join("new.key"), format!("{new}\n")).unwrap();
    let args = ["--config", &file.path()];
    assert_eq!(keys(&args, &[("OLD_KEY", &old)]), Ok((current, previous)));
    for (value, said) in [
        ("", "session_keys[1]: the variable OLD_KEY holds no key"),
        ("hunter2", "session_keys[1]: the variable OLD_KEY is no key"),
        (new.as_str(), "the variable OLD_KEY holds the same key"),
        (&"x,y".replace(['x', 'y'], &old).replacen('o', "p", 1), "at most two keys"),
    ] {
        let error = keys(&args, &[("OLD_KEY", value)]).unwrap_err();
        assert!(error.contains(said) && !error.contains("hunter2") && !error.contains(&new), "{error}");
    }
    let wrong = "session_keys: [{}, {file: absent.key}, {env: A, file: b}]";
    let said = complaints("keys-wrong", wrong);
    for (said, wanted) in said.iter().zip([
        "edge.yaml:1: session_keys[0]: either `env` or `file`",
        "edge.yaml:1: session_keys[2]: either `env` or `file`",
        "edge.yaml:1: session_keys[1]: the file ",
    ]) {
        assert!(said.starts_with(wanted), "{said}");
    }
    assert_eq!(said.len(), 3, "{said:#?}");
}
