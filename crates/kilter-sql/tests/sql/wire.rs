//! The protocol, message by message.

use std::net::SocketAddr;
use std::sync::Arc;

use kilter_sql::wire::{Login, Options, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::shop::{self, PAYMENTS, Shop};

struct Door(Option<&'static str>);

impl Login for Door {
    fn is_open(&self) -> bool {
        self.0.is_none()
    }

    fn admit(&self, password: &str) -> Option<String> {
        (Some(password) == self.0).then(|| "ada".into())
    }
}

async fn serve(shop: &Shop, key: Option<&'static str>, connections: usize) -> SocketAddr {
    let options = Options { address: "127.0.0.1:0".parse().unwrap(), login: Arc::new(Door(key)), tls: None, connections };
    let server = Server::bind(Arc::clone(&shop.engine), options).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.run());
    address
}

/// A client that says what it is told to.
struct Client {
    socket: TcpStream,
    /// Number and secret of the connection, as a request to cancel names it.
    key: Vec<u8>,
}

/// A message: what kind it is, and its body.
type Message = (char, Vec<u8>);

impl Client {
    async fn connect(address: SocketAddr, password: &str) -> Result<Client, String> {
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

    async fn raw(&mut self, body: &[u8]) {
        let length = (body.len() as i32 + 4).to_be_bytes();
        self.socket.write_all(&[&length, body].concat()).await.unwrap();
    }

    async fn send(&mut self, kind: char, body: &[u8]) {
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
    async fn answer(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.message().await);
            if messages.last().unwrap().0 == 'Z' {
                return messages;
            }
        }
    }

    /// Asks in the simple way: rows as texts, tags and errors, one a line.
    async fn ask(&mut self, sql: &str) -> String {
        self.send('Q', &[sql.as_bytes(), b"\0"].concat()).await;
        told(&self.answer().await)
    }

    async fn parse(&mut self, sql: &str) {
        self.send('P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat()).await;
    }

    /// Parameters as texts, results in text or binary.
    async fn bind(&mut self, parameters: &[&str], binary: bool) {
        let mut body = b"\0\0\0\0".to_vec();
        body.extend((parameters.len() as i16).to_be_bytes());
        for parameter in parameters {
            body.extend((parameter.len() as i32).to_be_bytes());
            body.extend(parameter.as_bytes());
        }
        body.extend([0, 1, 0, u8::from(binary)]);
        self.send('B', &body).await;
    }

    async fn execute(&mut self, most: i32) {
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
        let mut other = TcpStream::connect(address).await.unwrap();
        let body = [&80_877_102_i32.to_be_bytes()[..], &key].concat();
        other.write_all(&[&(body.len() as i32 + 4).to_be_bytes(), &body[..]].concat()).await.unwrap();
        let mut rest = Vec::new();
        let _ = other.read_to_end(&mut rest).await;
    }
    let (answer, mut client) = ended.await.unwrap();
    assert_eq!(answer, "error 57014");
    assert_eq!(
        client.ask("set statement_timeout = '300ms'; select count(*) from generate_series(1, 1000000000000)").await,
        "SET\nerror 57014"
    );
}
