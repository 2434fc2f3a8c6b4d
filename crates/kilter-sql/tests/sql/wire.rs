//! The protocol, message by message.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kilter_sql::Rights;
use kilter_sql::wire::{Identity, Login, Options, Scram, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::shop::{self, PAYMENTS, Shop};

/// What lets in.
pub struct Door {
    key: Option<&'static str>,
    /// What the key may see; none: it was taken away.
    pub rights: Mutex<Option<Rights>>,
}

impl Door {
    pub fn new(key: Option<&'static str>, rights: Rights) -> Arc<Door> {
        Arc::new(Door { key, rights: Mutex::new(Some(rights)) })
    }
}

impl Login for Door {
    fn is_open(&self) -> bool {
        self.key.is_none()
    }

    /// Of one user, whose proof is a word.
    fn scram(&self, user: &str) -> Option<Box<dyn Scram>> {
        (user == "prover").then(|| Box::new(Word) as _)
    }

    fn admit(&self, password: &str) -> Option<Identity> {
        (Some(password) == self.key).then(|| Identity { name: "ada".into(), hash: [7; 32] })
    }

    fn rights(&self, who: Option<&Identity>) -> Option<Rights> {
        self.rights.lock().unwrap().clone().filter(|_| who.is_some() == self.key.is_some())
    }
}

struct Word;

impl Scram for Word {
    fn first(&mut self, message: &str) -> Option<String> {
        (message == "first").then(|| "go on".into())
    }

    fn last(&mut self, message: &str) -> Option<(String, Identity)> {
        (message == "proof").then(|| ("proved".into(), Identity { name: "prover".into(), hash: [8; 32] }))
    }
}

async fn serve(shop: &Shop, key: Option<&'static str>, connections: usize) -> SocketAddr {
    serve_behind(shop, Door::new(key, Rights::Everything), connections).await
}

pub async fn serve_behind(shop: &Shop, login: Arc<Door>, connections: usize) -> SocketAddr {
    let options = Options { address: "127.0.0.1:0".parse().unwrap(), login, tls: None, connections };
    let server = Server::bind(Arc::clone(&shop.engine), options).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.run());
    address
}

/// A client that says what it is told to.
pub struct Client {
    socket: TcpStream,
    /// Number and secret of the connection, as a request to cancel names it.
    key: Vec<u8>,
}

/// A message: what kind it is, and its body.
type Message = (char, Vec<u8>);

impl Client {
    pub async fn connect(address: SocketAddr, password: &str) -> Result<Client, String> {
        let mut client = Client { socket: TcpStream::connect(address).await.unwrap(), key: Vec::new() };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        body.extend(b"user\0ada\0database\0shop\0\0");
        client.raw(&body).await;
        loop {
            let (kind, body) = client.message().await;
            match kind {
                'R' if body[..4] == 3_i32.to_be_bytes() => client.send('p', &[password.as_bytes(), b"\0"].concat()).await,
                'K' => client.key = body,
                'E' => return Err(text(&body)),
                'Z' => return Ok(client),
                _ => {}
            }
        }
    }

    /// Asks whether the server has closed the connection, whatever it said before.
    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let all = tokio::time::timeout(Duration::from_secs(20), self.socket.read_to_end(&mut rest)).await;
        all.is_ok()
    }

    async fn raw(&mut self, body: &[u8]) {
        let length = (body.len() as i32 + 4).to_be_bytes();
        self.socket.write_all(&[&length, body].concat()).await.unwrap();
    }

    pub async fn send(&mut self, kind: char, body: &[u8]) {
        self.socket.write_all(&[kind as u8]).await.unwrap();
        self.raw(body).await;
    }

    async fn message(&mut self) -> Message {
        let kind = self.socket.read_u8().await.unwrap();
        let mut body = vec![0; self.socket.read_i32().await.unwrap() as usize - 4];
        self.socket.read_exact(&mut body).await.unwrap();
        (kind as char, body)
    }

    /// Everything up to where the server waits again.
    pub async fn answer(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.message().await);
            if messages.last().unwrap().0 == 'Z' {
                return messages;
            }
        }
    }

    /// Asks in the simple way: rows as texts, tags and errors, one a line.
    pub async fn ask(&mut self, sql: &str) -> String {
        self.send('Q', &[sql.as_bytes(), b"\0"].concat()).await;
        told(&self.answer().await)
    }

    pub async fn parse(&mut self, sql: &str) {
        self.parse_with(sql, &[]).await;
    }

    /// With types of the parameters.
    async fn parse_with(&mut self, sql: &str, types: &[u32]) {
        let count = (types.len() as u16).to_be_bytes();
        let types: Vec<u8> = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        self.send('P', &[b"\0", sql.as_bytes(), b"\0", &count, &types].concat()).await;
    }

    /// Everything up to Sync's answer.
    pub async fn synced(&mut self) -> String {
        self.send('S', b"").await;
        told(&self.answer().await)
    }

    /// Parameters as texts, results in text or binary.
    pub async fn bind(&mut self, parameters: &[&str], binary: bool) {
        let mut body = b"\0\0\0\0".to_vec();
        body.extend((parameters.len() as i16).to_be_bytes());
        for parameter in parameters {
            body.extend((parameter.len() as i32).to_be_bytes());
            body.extend(parameter.as_bytes());
        }
        body.extend([0, 1, 0, u8::from(binary)]);
        self.send('B', &body).await;
    }

    pub async fn execute(&mut self, most: i32) {
        self.send('E', &[&b"\0"[..], &most.to_be_bytes()].concat()).await;
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).replace('\0', " ").trim().to_owned()
}

fn told(messages: &[Message]) -> String {
    let line = |(kind, body): &Message| match kind {
        'D' => {
            let (mut rest, mut values) = (&body[2..], Vec::new());
            while !rest.is_empty() {
                let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
                rest = &rest[4..];
                match usize::try_from(length) {
                    Ok(length) => {
                        values.push(String::from_utf8_lossy(&rest[..length]).into_owned());
                        rest = &rest[length..];
                    }
                    Err(_) => values.push("-".into()),
                }
            }
            Some(values.join("|"))
        }
        'C' => Some(text(body)),
        's' => Some("suspended".into()),
        'E' => {
            let code = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C')).unwrap();
            Some(format!("error {}", text(&code[1..])))
        }
        'Z' if body != b"I" => Some(format!("in {}", text(body))),
        _ => None,
    };
    messages.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_questions_are_answered() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    assert_eq!(client.ask("select 1 + 1, 'a', null, true; show server_version").await, "2|a|-|t\nSELECT 1\n16.4\nSHOW");
    assert_eq!(client.ask("select time, score from decisions where event_offset = 0").await, "2023-11-14 22:13:20+00|-\nSELECT 1");
    assert_eq!(client.ask("select count(*) from decisions; nonsense; select 1").await, format!("error 42601"));
    assert_eq!(client.ask("select count(*) from decisions; select x; select 1").await, format!("{PAYMENTS}\nSELECT 1\nerror 42703"));
    assert_eq!(client.ask("insert into decisions values (1)").await, "error 25006");
    assert_eq!(client.ask("").await, "");
    assert_eq!(client.ask("copy (select event_offset, outcome from decisions limit 1) to stdout").await, "COPY 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_cursors_are_kept() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    assert_eq!(client.ask("declare c cursor for select 1").await, "error 25P01");
    assert_eq!(
        client.ask("begin; declare c cursor for select event_offset from decisions order by 1").await,
        "BEGIN\nDECLARE CURSOR\nin T"
    );
    assert_eq!(client.ask("fetch 2 from c").await, "0\n1\nFETCH 2\nin T");
    assert_eq!(client.ask("move 5000 in c; fetch c").await, "MOVE 5000\n5002\nFETCH 1\nin T");
    assert_eq!(client.ask("selec").await, "error 42601\nin E");
    assert_eq!(client.ask("commit").await, "ROLLBACK");
    assert_eq!(client.ask("fetch c").await, "error 34000");
    assert_eq!(
        client.ask("declare h cursor with hold for select 7; fetch all from h; close h").await,
        "DECLARE CURSOR\n7\nFETCH 1\nCLOSE CURSOR"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_questions_take_parameters_and_give_rows_in_parts() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    client.parse("select event_offset from decisions where event_offset < $1 order by 1").await;
    client.send('D', b"S\0").await;
    client.bind(&["5"], false).await;
    client.execute(2).await;
    client.execute(2).await;
    client.execute(2).await;
    client.send('S', b"").await;
    let answer = client.answer().await;
    let parameters = &answer.iter().find(|(kind, _)| *kind == 't').unwrap().1;
    assert_eq!(parameters[..], [&1_i16.to_be_bytes()[..], &20_i32.to_be_bytes()].concat());
    assert_eq!(told(&answer), "0\n1\nsuspended\n2\n3\nsuspended\n4\nSELECT 1");

    client.parse("select $1::int8 + 1").await;
    client.bind(&["41"], true).await;
    client.execute(0).await;
    client.send('S', b"").await;
    let answer = client.answer().await;
    let row = &answer.iter().find(|(kind, _)| *kind == 'D').unwrap().1;
    assert_eq!(row[..], [&1_i16.to_be_bytes()[..], &8_i32.to_be_bytes(), &42_i64.to_be_bytes()].concat());

    // After an error everything up to the next Sync is passed over.
    client.parse("select nothing_like_it from decisions").await;
    client.bind(&[], false).await;
    client.execute(0).await;
    client.send('S', b"").await;
    assert_eq!(told(&client.answer().await), "error 42703");
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_key_or_where_there_is_no_room() {
    let shop = shop::open().await;
    let address = serve(&shop, Some("secret"), 1).await;
    let refused = Client::connect(address, "guess").await.err().unwrap();
    assert!(refused.contains("28P01"), "{refused}");
    let mut client = loop {
        // The one that was turned away takes a moment to go.
        match Client::connect(address, "secret").await {
            Ok(client) => break client,
            Err(e) => assert!(e.contains("53300"), "{e}"),
        }
    };
    assert_eq!(client.ask("select current_user").await, "ada\nSELECT 1");
    let refused = Client::connect(address, "secret").await.err().unwrap();
    assert!(refused.contains("53300"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_when_it_is_told_to() {
    let shop = shop::open().await;
    let address = serve(&shop, None, 5).await;
    let mut client = Client::connect(address, "").await.unwrap();
    client.send('Q', b"select count(*) from generate_series(1, 1000000000000)\0").await;
    let key = client.key.clone();
    let ended = tokio::spawn(async move { (told(&client.answer().await), client) });
    // Told again until it has begun.
    while !ended.is_finished() {
        cancel(address, &key).await;
    }
    let (answer, mut client) = ended.await.unwrap();
    assert_eq!(answer, "error 57014");
    assert_eq!(
        client.ask("set statement_timeout = '300ms'; select count(*) from generate_series(1, 1000000000000)").await,
        "SET\nerror 57014"
    );
}

/// A client that has said who it is, and no more.
async fn stranger(address: SocketAddr) -> Client {
    let mut client = Client { socket: TcpStream::connect(address).await.unwrap(), key: Vec::new() };
    client.raw(&[&196_608_i32.to_be_bytes()[..], b"user\0ada\0\0"].concat()).await;
    assert_eq!(client.message().await.0, 'R');
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_let_in_is_sent_away_and_keeps_no_place() {
    let shop = shop::open().await;
    let address = serve(&shop, Some("secret"), 1).await;
    // A wrong password ends the connection.
    let mut wrong = stranger(address).await;
    wrong.send('p', b"guess\0").await;
    assert!(wrong.is_closed().await);
    // So does whatever is no password: nothing of it is parsed.
    for (kind, body) in [('P', &b"\0select 1\0\0\0"[..]), ('Q', b"select 1\0")] {
        let mut early = stranger(address).await;
        early.send(kind, body).await;
        let (answer, body) = early.message().await;
        assert!(answer == 'E' && text(&body).contains("nobody has logged in"), "{kind}");
        assert!(early.is_closed().await);
    }
    // And a password of any length.
    let mut long = stranger(address).await;
    long.socket.write_all(&[&b"p"[..], &100_000_000_i32.to_be_bytes()].concat()).await.unwrap();
    assert!(long.is_closed().await);
    // Who only knocks takes no place from who has a key.
    let mut waits = Vec::new();
    for _ in 0..100 {
        waits.push(stranger(address).await);
    }
    let mut client = Client::connect(address, "secret").await.unwrap();
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_ends_one_connection() {
    let shop = shop::open().await;
    let address = serve(&shop, None, 9).await;
    // Shorter than itself, larger than anything, cut off in the middle, and of no known kind.
    let too_large = [&b"Q"[..], &1_000_000_000_i32.to_be_bytes()].concat();
    for bad in [&b"Q\0\0\0\0"[..], &too_large, b"B\0\0\0\x06a\0", b"D\0\0\0\x04", b"!\0\0\0\x04"] {
        let mut client = Client::connect(address, "").await.unwrap();
        client.socket.write_all(bad).await.unwrap();
        assert!(client.is_closed().await, "{bad:?}");
    }
    let mut client = Client::connect(address, "").await.unwrap();
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_away_opens_nothing_more() {
    let shop = shop::open().await;
    let door = Door::new(Some("secret"), Rights::Everything);
    let address = serve_behind(&shop, Arc::clone(&door), 5).await;
    let mut client = Client::connect(address, "secret").await.unwrap();
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1");
    client.parse("select count(*) from decisions").await;
    assert_eq!(client.synced().await, "");
    *door.rights.lock().unwrap() = None;
    client.bind(&[], false).await;
    client.execute(0).await;
    client.send('S', b"").await;
    let (kind, body) = client.message().await;
    assert!(kind == 'E' && text(&body).contains("57P01"), "{kind} {}", text(&body));
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_would_take_everything_are_refused() {
    let shop = shop::open().await;
    let address = serve(&shop, None, 5).await;
    let mut client = Client::connect(address, "").await.unwrap();
    let long = format!("select 1{}", "+1".repeat(60_000));
    assert_eq!(client.ask(&long).await, "error 54001");
    let deepest = |word: &str, n: usize| format!("select {}", vec!["1"; n].join(word));
    // The deepest ones that pass: they are planned, answered and taken apart.
    assert_eq!(client.ask(&deepest("+", 990)).await, "990\nSELECT 1");
    assert_eq!(client.ask(&format!("select count(*) from pg_class where 1 = {}", vec!["1"; 980].join("+"))).await, "0\nSELECT 1");
    assert_eq!(client.ask(&vec!["select 1"; 600].join(" union ")).await, "1\nSELECT 1");
    for bad in ["select $4000000000", "select * from pg_class where oid = $9223372036854775807"] {
        client.parse(bad).await;
        client.send('D', b"S\0").await;
        assert_eq!(client.synced().await, "error 54023");
    }
    let of = |table: &str| {
        let doubled = (1..40).map(|i| format!("c{i} as (select a.x from c{0} a, c{0} b)", i - 1)).collect::<Vec<_>>().join(", ");
        format!("with c0 as (select 1 as x from {table}), {doubled} select count(*) from c39")
    };
    assert_eq!(client.ask(&of("decisions")).await, "error 54001");
    assert_eq!(client.ask(&of("pg_class")).await, "error 54001");
    let large = [
        "select length(repeat('x', 2000000000))",
        "select length(lpad('x', 2000000000, 'y'))",
        "select length(replace(repeat('a', 1000000), 'a', repeat('b', 1000000)))",
        "select length(regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000000), 'g'))",
        "select levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
        "select array_length(array_repeat(1, 10000000000))",
        "select array_length(range(0, 1500000000))",
        "select length(arrow_cast('x', 'LargeUtf8'))",
        "select regexp_replace(printf('%1000000d', 0), ' ', printf('%1000000d', 0), 'g') from pg_class",
        "select printf('%1000000d', 1) from pg_attribute a, pg_attribute b",
        "select max(x) from (select printf('%1000000d', a.attnum) as x from pg_attribute a, pg_attribute b, pg_attribute c order by 1) as y",
    ];
    assert_eq!(client.ask("set statement_timeout = '5s'").await, "SET");
    for bad in large {
        let answer = client.ask(bad).await;
        assert!(answer.starts_with("error "), "{bad}: {answer}");
    }
    assert_eq!(client.ask("set statement_timeout = 0").await, "SET");
    assert_eq!(client.ask("select length(repeat('x', 1000)), lpad('7', 3, '0')").await, "1000|007\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_the_catalogue_wait_for_no_other_and_end() {
    let shop = shop::open().await;
    let address = serve(&shop, None, 9).await;
    let endless = "with recursive t(x) as (select 1 union all select x + 1 from t) select count(*) from t, pg_class";
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(address, "").await.unwrap();
        client.send('Q', format!("{endless}\0").as_bytes()).await;
        busy.push(client);
    }
    let mut client = Client::connect(address, "").await.unwrap();
    assert!(client.ask("select relname from pg_class where relname = 'decisions'").await.starts_with("decisions"));
    // As soon as they are told to, they give their places back: there are four.
    for mut client in busy {
        let key = client.key.clone();
        let ended = tokio::spawn(async move { told(&client.answer().await) });
        while !ended.is_finished() {
            cancel(address, &key).await;
        }
        assert_eq!(ended.await.unwrap(), "error 57014");
    }
    assert_eq!(client.ask("set statement_timeout = '200ms'").await, "SET");
    for _ in 0..6 {
        assert_eq!(client.ask(endless).await, "error 57014");
    }
    assert!(client.ask("select relname from pg_class where relname = 'decisions'").await.starts_with("decisions"));
}

/// Asks to end what a connection runs.
async fn cancel(address: SocketAddr, key: &[u8]) {
    let mut other = TcpStream::connect(address).await.unwrap();
    let body = [&80_877_102_i32.to_be_bytes()[..], key].concat();
    other.write_all(&[&(body.len() as i32 + 4).to_be_bytes(), &body[..]].concat()).await.unwrap();
    let mut rest = Vec::new();
    let _ = other.read_to_end(&mut rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_a_client_declares_are_kept() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    for (sql, types, parameters, answer) in [
        ("select $1 + $2", &[23_u32, 23][..], &["40", "2"][..], "42\nSELECT 1"),
        ("select $1", &[23], &["7"], "7\nSELECT 1"),
        ("select coalesce($1, 5)", &[20], &["7"], "7\nSELECT 1"),
        ("select count(*) from decisions where event_offset < $1", &[20], &["10"], "10\nSELECT 1"),
        ("select event_offset from decisions order by 1 limit $1 offset $2", &[23, 23], &["1", "3"], "3\nSELECT 1"),
        ("select count(*) from decisions where time < $1", &[1184], &["9999-12-31"], "6000\nSELECT 1"),
        ("select timestamp '2024-01-02' - $1", &[1186], &["1 day"], "2024-01-01 00:00:00\nSELECT 1"),
        ("select relname from pg_class where oid = $1::regclass", &[], &["decisions"], "decisions\nSELECT 1"),
    ] {
        client.parse_with(sql, types).await;
        client.bind(parameters, false).await;
        client.execute(0).await;
        assert_eq!(client.synced().await, answer, "{sql}");
    }
    // What the question does not tell of is text, in both forms.
    client.parse_with("select $1", &[1700]).await;
    client.send('D', b"S\0").await;
    client.bind(&["5"], true).await;
    client.execute(0).await;
    assert_eq!(client.synced().await, "5\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_answers_nothing_but_its_end() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    assert_eq!(client.ask("begin; select nothing_like_it from decisions").await, "BEGIN\nerror 42703\nin E");
    for sql in ["select 1", "begin", "show server_version", "set application_name = 'x'"] {
        assert_eq!(client.ask(sql).await, "error 25P02\nin E", "{sql}");
    }
    client.parse("select 1").await;
    assert_eq!(client.synced().await, "error 25P02\nin E");
    assert_eq!(client.ask("rollback to savepoint s; select 1; commit").await, "ROLLBACK\n1\nSELECT 1\nCOMMIT");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_is_gone_and_the_rest_has_a_bound() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    client.send('P', b"a\0select 1\0\0\0").await;
    assert_eq!(client.synced().await, "");
    assert_eq!(client.ask("deallocate a; deallocate a").await, "DEALLOCATE\nerror 26000");
    client.send('P', b"a\0select 1\0\0\0").await;
    assert_eq!(client.synced().await, "");
    assert_eq!(client.ask("discard temp").await, "DISCARD TEMP");
    client.send('B', b"\0a\0\0\0\0\0\0\0").await;
    assert_eq!(client.synced().await, "");
    assert_eq!(client.ask("discard all").await, "DISCARD ALL");
    client.send('B', b"\0a\0\0\0\0\0\0\0").await;
    assert_eq!(client.synced().await, "error 26000");

    for n in 0..1001 {
        client.send('P', format!("s{n}\0select 1\0\0\0").as_bytes()).await;
    }
    assert_eq!(client.synced().await, "error 53400");
    assert_eq!(client.ask("deallocate all; begin").await, "DEALLOCATE ALL\nBEGIN\nin T");
    // Portals with rows left hold threads and memory: so many, and no more.
    client.parse("select event_offset from decisions").await;
    for n in 0..33 {
        client.send('B', format!("p{n}\0\0\0\0\0\0\0\0").as_bytes()).await;
        client.send('E', &[format!("p{n}\0").as_bytes(), &1_i32.to_be_bytes()].concat()).await;
        // Closed again, they do not count.
        if n < 20 {
            client.send('C', format!("Pp{n}\0").as_bytes()).await;
        }
    }
    assert!(!client.synced().await.contains("error"));
    client.parse("select event_offset from decisions").await;
    for n in 0..33 {
        client.send('B', format!("q{n}\0\0\0\0\0\0\0\0").as_bytes()).await;
        client.send('E', &[format!("q{n}\0").as_bytes(), &1_i32.to_be_bytes()].concat()).await;
    }
    assert!(client.synced().await.contains("error 53000"));
    assert_eq!(client.ask("rollback").await, "ROLLBACK");
    let settings: String = (0..70).map(|n| format!("set my.setting{n} = 'x';")).collect();
    assert!(client.ask(&settings).await.ends_with("error 53400"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_any_length_reach_the_client() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    let long = "é".repeat(50_000);
    assert!(client.ask(&format!("select cast('{long}' as int)")).await.starts_with("error "));
    client.parse("select $1::int8").await;
    client.bind(&["a\0b"], false).await;
    client.execute(0).await;
    assert_eq!(client.synced().await, "error 22P02");
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_written_as_they_are_asked_for() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    client
        .send('Q', b"copy (select 1 as a, 'x;\"y' as b, null as c, '' as d) to stdout (format csv, header, delimiter ';', null '-')\0")
        .await;
    let rows: String =
        client.answer().await.iter().filter(|(kind, _)| *kind == 'd').map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect();
    assert_eq!(rows, "a;b;c;d\n1;\"x;\"\"y\";-;\n");
    client.send('Q', b"copy decisions (event_offset, outcome) to stdout\0").await;
    let answer = client.answer().await;
    let row = answer.iter().rfind(|(kind, _)| *kind == 'd').unwrap();
    assert_eq!(String::from_utf8_lossy(&row.1), "0\treview\n");
    assert_eq!(client.ask("copy decisions to stdout (format csv, force_quote *)").await, "error 0A000");
    assert_eq!(client.ask("copy (select 'pg_class'::regclass) to stdout (format binary)").await, "error 0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_sqlite_itself_are_nobodys() {
    let shop = shop::open().await;
    let mut client = Client::connect(serve(&shop, None, 5).await, "").await.unwrap();
    for sql in [
        "select * from pragma_database_list, pg_class where exists (with pragma_database_list as (select 1) select 1)",
        "with sqlite_master as (select 1) select 1 from pg_class; select * from sqlite_master, pg_class",
        "select (select count(*) from sqlite_schema) from pg_class",
    ] {
        assert!(client.ask(sql).await.contains("error 42P01"), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_called_like_a_key_proves_it() {
    let shop = shop::open().await;
    let address = serve(&shop, Some("secret"), 5).await;
    for (method, first, last) in
        [("SCRAM-SHA-256", "first", "proof"), ("SCRAM-SHA-256", "first", "guess"), ("PLAIN", "first", "proof"), ("SCRAM-SHA-256", "", "")]
    {
        let mut client = Client { socket: TcpStream::connect(address).await.unwrap(), key: Vec::new() };
        client.raw(&[&196_608_i32.to_be_bytes()[..], b"user\0prover\0\0"].concat()).await;
        let (kind, body) = client.message().await;
        assert!(kind == 'R' && text(&body[4..]) == "SCRAM-SHA-256", "{body:?}");
        let length = (first.len() as i32).to_be_bytes();
        client.send('p', &[method.as_bytes(), b"\0", &length, first.as_bytes()].concat()).await;
        let (mut kind, mut body) = client.message().await;
        if kind == 'R' {
            assert_eq!(body, [&11_i32.to_be_bytes()[..], b"go on"].concat());
            client.send('p', last.as_bytes()).await;
            (kind, body) = client.message().await;
        }
        match (method, last) {
            ("SCRAM-SHA-256", "proof") => {
                assert_eq!(body, [&12_i32.to_be_bytes()[..], b"proved"].concat());
                client.answer().await;
                assert_eq!(client.ask("select current_user").await, "prover\nSELECT 1");
            }
            _ => {
                assert!(kind == 'E' && text(&body).contains("28P01"), "{method} {first} {last}");
                assert!(client.is_closed().await);
            }
        }
    }
}
