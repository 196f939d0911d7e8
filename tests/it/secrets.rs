//! What is said of peers: how many bytes they sent and never which, and who they are only if asked.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use evenfall::net::{Payload, TcpStream};
use evenfall::time::sleep;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::promises;
use crate::server::{Setup, conclude, host};

promises![
    no_report_and_no_value_shows_what_a_peer_has_sent,
    a_peer_is_named_by_its_network_and_by_its_address_only_if_asked,
];

/// What a peer sends, and nobody else says.
const SECRET: &[u8] = b"hunter2~Zq9#xT";

/// Where it comes from.
const FROM: &str = "127.77.66.55";

/// A server that was cut while it held the secret in every way there is: received and not taken, in a
/// user's hands, queued to be sent. Its facts are all that it has to say; and the peer's port.
fn cut(words: &[&str]) -> (Value, Value, u16) {
    let mut server = Program::role("keeps_secrets", words);
    let address: SocketAddr = server.address().parse().expect("an address");
    let mut peer = coming_from(FROM, address);
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    peer.write_all(SECRET).expect("it listens");
    server.line("looked");
    peer.write_all(SECRET).expect("it listens");
    let port = peer.local_addr().expect("it is connected").port();
    server.tell("force");
    let ended = server.finish();
    let mut rest = Vec::new();
    // A reset, sooner or later.
    let _reset = peer.read_to_end(&mut rest);
    let report = ended.json("report ");
    let facts = ended.json("facts ");
    ended.report(81);
    (report, facts, port)
}

fn coming_from(host: &str, to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{host}:0").parse().expect("an address");
    socket.bind(&from.into()).expect("all of 127 is ours");
    socket.connect(&to.into()).expect("it listens");
    socket.into()
}

/// The bytes as text, in hexadecimal, and as Rust prints a slice of them: some part of each.
fn shows_the_secret(said: &str) -> bool {
    let part = &SECRET[..4];
    let hex: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<_> = part.iter().map(u8::to_string).collect();
    let forms = [
        String::from_utf8_lossy(part).into_owned(),
        hex.concat(),
        hex.join(" "),
        numbers.join(", "),
        numbers.join(","),
    ];
    let said = said.to_lowercase();
    forms.iter().any(|form| said.contains(form.as_str()))
}

fn no_report_and_no_value_shows_what_a_peer_has_sent() {
    // That it would be seen.
    assert!(shows_the_secret(&format!("{SECRET:?}")));
    assert!(shows_the_secret(&String::from_utf8_lossy(SECRET)));
    for words in [&["cores=1"][..], &["cores=1", "name_peers=true"]] {
        let (report, facts, _) = cut(words);
        for (name, said) in facts.as_object().expect("a map") {
            let said = said.as_str().expect("words");
            assert!(!said.is_empty(), "{name}");
            assert!(!shows_the_secret(said), "{name}: {said}");
        }
        assert!(!shows_the_secret(&report.to_string()), "{report}");
    }
}

fn a_peer_is_named_by_its_network_and_by_its_address_only_if_asked() {
    let name = |report: &Value| {
        let stragglers = report["cores"][0]["stragglers"].as_array().cloned();
        let mut stragglers = stragglers.expect("a list").into_iter();
        let found = stragglers.find(|one| one["kind"] == "connection");
        found.map(|one| one["name"].clone())
    };
    let (report, facts, port) = cut(&["cores=1"]);
    assert_eq!(name(&report), Some(json!("127.77.66.0/24")));
    for way in ["display", "debug", "svg"] {
        let said = facts[way].as_str().expect("words");
        assert!(!said.contains(FROM), "{way}: {said}");
    }
    let (report, facts, named_port) = cut(&["cores=1", "name_peers=true"]);
    assert_eq!(name(&report), Some(json!(format!("{FROM}:{named_port}"))));
    let debug = facts["debug"].as_str().expect("words");
    assert!(debug.contains(FROM), "{debug}");
    assert_ne!(port, 0);
}

/// Says how each value looks that has to do with a connection, and all forms of the report.
pub(crate) fn keeps_secrets(args: Args) -> ExitCode {
    let said = Arc::new(Mutex::new(serde_json::Map::new()));
    let says = Arc::clone(&said);
    let result = host(Setup::only(args), move |_core, listener| {
        let says = Arc::clone(&says);
        async move {
            listener
                .serve(move |stream| look(stream, Arc::clone(&says)))
                .await
        }
    });
    let mut said = said.lock().expect("nobody panics with it");
    if let Ok(report) = &result {
        said.insert("display".to_owned(), report.to_string().into());
        said.insert("debug".to_owned(), format!("{report:?}").into());
        said.insert("svg".to_owned(), report.to_svg().into());
    }
    let facts = Value::Object(said.clone());
    drop(said);
    conclude(result, &facts)
}

async fn look(
    mut stream: TcpStream,
    said: Arc<Mutex<serde_json::Map<String, Value>>>,
) -> io::Result<()> {
    let mut looks = Vec::new();
    let mut shown = |name: &str, value: &dyn std::fmt::Debug| {
        looks.push((name.to_owned(), format!("{value:?} {value:#?}")));
    };
    let next = stream.next_request();
    shown("next_request", &next);
    assert!(next.await?);
    let receiving = stream.recv();
    shown("recv", &receiving);
    let chunk = receiving.await?;
    assert_eq!(chunk.as_ref(), SECRET);
    shown("chunk", &chunk);
    shown("slice", &chunk.slice(2..));
    shown("payload of a chunk", &Payload::from(chunk.clone()));
    shown("payload of bytes", &Payload::from(SECRET.to_vec()));
    shown(
        "payload of text",
        &Payload::from(String::from_utf8_lossy(SECRET).into_owned()),
    );
    let sending = stream.send(chunk.clone());
    shown("send of a chunk", &sending);
    sending.await?;
    let sending = stream.send(SECRET.to_vec());
    shown("send of bytes", &sending);
    sending.await?;
    shown("stream", &stream);
    let (reader, writer) = stream.into_split();
    shown("read half", &reader);
    shown("write half", &writer);
    let held = Rc::new(RefCell::new(vec![chunk]));
    let task = evenfall::spawn(async move { held.borrow_mut().pop() });
    shown("task that has it", &task);
    let output = task.await.map_err(io::Error::other)?;
    shown("what it gave", &output);
    {
        let mut said = said.lock().expect("nobody panics with it");
        said.extend(looks.into_iter().map(|(name, look)| (name, look.into())));
    }
    crate::process::say("looked");
    // Cut here, with more of it queued on both sides.
    loop {
        sleep(WATCHDOG).await;
        let _kept = (&reader, &writer);
    }
}
