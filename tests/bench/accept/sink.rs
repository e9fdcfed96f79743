//! A server that speaks the dialog and keeps nothing. As a child process with TLS and AUTH it is
//! the ceiling of the bench; inside the bench, without them, it is what Postmeter delivers to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::args::Args;
use crate::tls;

/// The child process: prints `ready ADDR`, and ends when its standard input does, so that it
/// never outlives the bench.
pub(crate) async fn child(args: &Args) -> Result<()> {
    let (cert, key) = (args.cert.as_ref().context("--cert")?, args.key.as_ref().context("--key")?);
    let acceptor = tls::acceptor(cert, key)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("ready {}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    serve(listener, Some(acceptor), Arc::default()).await
}

/// Accepts and answers until dropped; counts the messages.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    messages: Arc<AtomicU64>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, messages) = (acceptor.clone(), Arc::clone(&messages));
        // A client that goes away ends its task with an error that says nothing.
        tokio::spawn(async move { connection(stream, acceptor, &messages).await });
    }
}

async fn connection(
    mut stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    messages: &AtomicU64,
) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.bench.example ESMTP\r\n").await?;
    let Some(acceptor) = acceptor else {
        converse(&mut stream, "", messages).await?;
        return Ok(());
    };
    if converse(&mut stream, "250-STARTTLS\r\n", messages).await? == End::StartTls {
        let mut stream = acceptor.accept(stream).await?;
        converse(&mut stream, "250-AUTH PLAIN\r\n", messages).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum End {
    StartTls,
    Closed,
}

enum Answer {
    Reply(&'static str),
    Ehlo,
    Data,
    Last(&'static str, End),
}

/// Answers commands, and whole groups of them with one write.
async fn converse<S>(stream: &mut S, extension: &str, messages: &AtomicU64) -> Result<End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const FINAL_DOT: &[u8] = b"\r\n.\r\n";
    let mut buffer: Vec<u8> = Vec::with_capacity(4_096);
    let mut replies: Vec<u8> = Vec::new();
    let (mut used, mut in_data) = (0, false);
    loop {
        let rest = &buffer[used..];
        let step = if in_data { find(rest, FINAL_DOT) } else { find(rest, b"\r\n") };
        let Some(at) = step else {
            if !replies.is_empty() {
                stream.write_all(&replies).await?;
                stream.flush().await?;
                replies.clear();
            }
            // Of a message only what may be the beginning of its end is looked at again.
            let again = if in_data { FINAL_DOT.len() - 1 } else { buffer.len() };
            buffer.drain(..used.max(buffer.len().saturating_sub(again)));
            used = 0;
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(End::Closed);
            }
            continue;
        };
        if in_data {
            used += at + FINAL_DOT.len();
            in_data = false;
            messages.fetch_add(1, Ordering::Relaxed);
            replies.extend_from_slice(b"250 2.0.0 Swallowed\r\n");
            continue;
        }
        let answer = answer(&rest[..at]);
        used += at + 2;
        match answer {
            Answer::Reply(line) => replies.extend_from_slice(line.as_bytes()),
            Answer::Ehlo => replies.extend_from_slice(
                format!("250-sink.bench.example\r\n{extension}250-PIPELINING\r\n250 8BITMIME\r\n").as_bytes(),
            ),
            Answer::Data => {
                replies.extend_from_slice(b"354 Go ahead\r\n");
                // The line's own CRLF is the one before the dot of an empty message.
                used -= 2;
                in_data = true;
            }
            Answer::Last(line, end) => {
                replies.extend_from_slice(line.as_bytes());
                stream.write_all(&replies).await?;
                stream.flush().await?;
                return Ok(end);
            }
        }
    }
}

fn answer(line: &[u8]) -> Answer {
    let verb = line.split(|&b| b == b' ').next().unwrap_or_default().to_ascii_uppercase();
    match verb.as_slice() {
        b"EHLO" => Answer::Ehlo,
        b"STARTTLS" => Answer::Last("220 2.0.0 Go ahead\r\n", End::StartTls),
        b"AUTH" => Answer::Reply("235 2.7.0 Authenticated\r\n"),
        b"DATA" => Answer::Data,
        b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => Answer::Reply("250 2.0.0 OK\r\n"),
        b"QUIT" => Answer::Last("221 2.0.0 Bye\r\n", End::Closed),
        _ => Answer::Reply("502 5.5.1 Not here\r\n"),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
