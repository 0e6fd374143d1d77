//! What is sent again, and what never is: docs/rules.md 3.3, played by an upstream of frames or of bytes.

use standin::Authority;
use tokio::task::JoinSet;

use crate::support::{
    API, Countersign, FrameUpstream, Frames, INTERNAL_ERROR, NO_ERROR, Plan, REFUSED_STREAM, Setup, Wire,
};

/// A sidecar before an upstream of frames.
async fn before_frames() -> (Countersign, FrameUpstream) {
    let authority = Authority::new();
    let upstream = FrameUpstream::listen(&authority).await;
    let route = format!(
        "[[route]]\nauth = \"none\"\nupstream = \"https://{API}\"\nconnect_to = \"127.0.0.1:{}\"\n",
        upstream.port()
    );
    (Setup::new(&authority).add(&route).start().await, upstream)
}

/// The same with a connection that has carried a request.
async fn warm() -> (Countersign, FrameUpstream, Frames) {
    let (countersign, upstream) = before_frames().await;
    let (answer, frames) = tokio::join!(countersign.get("/"), async {
        let mut frames = upstream.accept(None).await;
        let (stream, _) = frames.request().await;
        frames.answer(stream, "warm").await;
        frames
    });
    assert_eq!(answer.text(), "warm");
    (countersign, upstream, frames)
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_it_is() {
    for (method, body) in [("GET", &b""[..]), ("POST", b""), ("POST", b"1000"), ("PATCH", b"p"), ("DELETE", b"")] {
        let (countersign, upstream, mut frames) = warm().await;
        let (answer, ()) = tokio::join!(countersign.ask(method, "/", &[], body), async {
            let (refused, _) = frames.head().await;
            frames.reset(refused, REFUSED_STREAM).await;
            let mut frames = upstream.accept(None).await;
            let (stream, again) = frames.request().await;
            assert_eq!(again, body, "{method}");
            frames.answer(stream, "done").await;
        });
        assert_eq!(answer.text(), "done", "{method}");
        countersign.finish().await;
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_half_way_goes_on_from_its_beginning() {
    let (countersign, upstream, mut frames) = warm().await;
    let mut client = countersign.connect().await;
    client.writer.chunked("POST", "/").await;
    client.writer.chunk("first,").await;
    let (refused, _) = frames.head().await;
    assert_eq!(frames.data(refused).await.0, b"first,");
    frames.reset(refused, REFUSED_STREAM).await;
    let mut frames = upstream.accept(None).await;
    let (stream, _) = frames.head().await;
    assert_eq!(frames.data(stream).await.0, b"first,");
    client.writer.chunk("second").await;
    assert_eq!(frames.data(stream).await.0, b"second");
    client.writer.end().await;
    assert!(frames.data(stream).await.1);
    frames.answer(stream, "whole").await;
    assert_eq!(client.reader.answer("POST").await.text(), "whole");
    countersign.finish().await;
}

#[tokio::test]
async fn what_is_too_large_to_be_kept_is_not_sent_again() {
    let (countersign, upstream, mut frames) = warm().await;
    let body = vec![b'x'; 65 * 1024];
    let (answer, ()) = tokio::join!(countersign.ask("PUT", "/", &[], &body[..]), async {
        let (refused, whole) = frames.request().await;
        assert_eq!(whole.len(), body.len());
        frames.reset(refused, REFUSED_STREAM).await;
    });
    assert_eq!(answer.verdict(), (502, "upstream-reset"));
    drop(upstream);
    countersign.finish().await;
}

#[tokio::test]
async fn a_request_is_refused_twice_at_most() {
    let (countersign, upstream, mut frames) = warm().await;
    let (answer, ()) = tokio::join!(countersign.get("/"), async {
        let (refused, _) = frames.request().await;
        frames.reset(refused, REFUSED_STREAM).await;
        let mut second = upstream.accept(None).await;
        let (refused, _) = second.request().await;
        second.reset(refused, REFUSED_STREAM).await;
    });
    assert_eq!(answer.verdict(), (502, "upstream-reset"));
    countersign.finish().await;
}

#[tokio::test]
async fn another_reset_says_nothing_and_nothing_is_sent_again() {
    let (countersign, _upstream, mut frames) = warm().await;
    for method in ["GET", "POST"] {
        let (answer, ()) = tokio::join!(countersign.ask(method, "/", &[], b""), async {
            let (stream, _) = frames.request().await;
            frames.reset(stream, INTERNAL_ERROR).await;
        });
        assert_eq!(answer.verdict(), (502, "upstream-reset"), "{method}");
    }
    countersign.finish().await;
}

#[tokio::test]
async fn a_connection_that_goes_away_ends_what_it_has_and_the_rest_goes_elsewhere() {
    let (countersign, upstream, mut frames) = warm().await;
    let (mut one, mut two) = (countersign.connect().await, countersign.connect().await);
    one.writer.request("POST", "/", &[], b"one").await;
    let (first, _) = frames.request().await;
    two.writer.request("POST", "/", &[], b"two").await;
    let (_second, body) = frames.request().await;
    assert_eq!(body, b"two");
    frames.go_away(first, NO_ERROR).await;
    let mut elsewhere = upstream.accept(None).await;
    let (second, body) = elsewhere.request().await;
    assert_eq!(body, b"two");
    elsewhere.answer(second, "two").await;
    assert_eq!(two.reader.answer("POST").await.text(), "two");
    frames.answer(first, "one").await;
    assert_eq!(one.reader.answer("POST").await.text(), "one");
    let (three, ()) = tokio::join!(countersign.ask("POST", "/", &[], b"three"), async {
        let (stream, body) = elsewhere.request().await;
        assert_eq!(body, b"three");
        elsewhere.answer(stream, "three").await;
    });
    assert_eq!(three.text(), "three");
    assert!(frames.is_over().await, "nothing more came on the old connection");
    countersign.finish().await;
}

#[tokio::test]
async fn a_connection_that_goes_away_while_idle_loses_no_request() {
    let (countersign, upstream, mut frames) = warm().await;
    frames.go_away(1, NO_ERROR).await;
    for method in ["GET", "POST"] {
        let (answer, elsewhere) = tokio::join!(countersign.ask(method, "/", &[], b"x"), async {
            let mut elsewhere = upstream.accept(None).await;
            let (stream, _) = elsewhere.request().await;
            elsewhere.answer(stream, "elsewhere").await;
            elsewhere.go_away(stream, INTERNAL_ERROR).await;
            elsewhere
        });
        assert_eq!(answer.text(), "elsewhere", "{method}");
        frames = elsewhere;
    }
    drop(frames);
    countersign.finish().await;
}

#[tokio::test]
async fn a_request_below_the_last_stream_may_have_been_processed() {
    for (method, again) in [("POST", false), ("GET", true)] {
        let (countersign, upstream, mut frames) = warm().await;
        let mut client = countersign.connect().await;
        client.writer.request(method, "/", &[], b"once").await;
        let (stream, _) = frames.request().await;
        frames.go_away(stream, NO_ERROR).await;
        drop(frames);
        if again {
            let mut frames = upstream.accept(None).await;
            let (stream, _) = frames.request().await;
            frames.answer(stream, "twice is as once").await;
            assert_eq!(client.reader.answer(method).await.text(), "twice is as once");
        } else {
            assert_eq!(client.reader.answer(method).await.verdict(), (502, "upstream-reset"));
        }
        countersign.finish().await;
    }
}

#[tokio::test]
async fn requests_beyond_what_one_connection_takes_go_on_another() {
    let (countersign, upstream) = before_frames().await;
    let mut first = {
        let (answer, frames) = tokio::join!(countersign.get("/"), async {
            let mut frames = upstream.accept(Some(2)).await;
            let (stream, _) = frames.request().await;
            frames.answer(stream, "one").await;
            frames
        });
        assert_eq!(answer.text(), "one");
        frames
    };
    // This one has hyper hear of the limit, whenever the first was sent.
    let (answer, ()) = tokio::join!(countersign.get("/"), async {
        let (stream, _) = first.request().await;
        first.answer(stream, "two").await;
    });
    assert_eq!(answer.text(), "two");
    let mut asking = JoinSet::new();
    for _ in 0..5 {
        let mut client = countersign.connect().await;
        asking.spawn(async move { client.ask("POST", "/", &[], b"many").await.text() });
    }
    let mut connections = vec![first];
    let mut streams = vec![];
    for index in 0..3 {
        if index > 0 {
            connections.push(upstream.accept(Some(2)).await);
        }
        for _ in 0..if index == 2 { 1 } else { 2 } {
            streams.push((index, connections[index].request().await.0));
        }
    }
    // All are there at the same time; none waited for another.
    for (index, stream) in streams {
        connections[index].answer(stream, "answered").await;
    }
    assert_eq!(asking.join_all().await, ["answered"; 5]);
    countersign.finish().await;
}

#[tokio::test]
async fn streams_refused_before_the_limit_was_known_are_all_answered() {
    let (countersign, upstream) = before_frames().await;
    let mut asking = JoinSet::new();
    for _ in 0..10 {
        let mut client = countersign.connect().await;
        asking.spawn(async move { client.ask("POST", "/", &[], b"many").await.text() });
    }
    // Serves one request at a time on each connection and refuses the others, as it says in its settings.
    let serving = async {
        let mut serving = JoinSet::new();
        loop {
            let mut frames = upstream.accept(Some(1)).await;
            serving.spawn(async move {
                loop {
                    let (stream, _) = frames.request().await;
                    let others = tokio::time::timeout(std::time::Duration::from_millis(20), async {
                        loop {
                            let (refused, _) = frames.head().await;
                            frames.reset(refused, REFUSED_STREAM).await;
                        }
                    });
                    assert!(others.await.is_err());
                    frames.answer(stream, "answered").await;
                }
            });
        }
    };
    tokio::select! {
        answers = asking.join_all() => assert_eq!(answers, ["answered"; 10]),
        () = serving => {}
    }
    countersign.finish().await;
}

#[tokio::test]
async fn interim_answers_over_http_2_stay_here() {
    let (countersign, _upstream, mut frames) = warm().await;
    for number in [1, 32] {
        let (answer, ()) = tokio::join!(countersign.ask("POST", "/", &[], b"x"), async {
            let (stream, _) = frames.request().await;
            for _ in 0..number {
                frames.interim(stream).await;
            }
            frames.answer(stream, "final").await;
        });
        assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
    }
    countersign.finish().await;
}

#[tokio::test]
async fn one_interim_answer_too_many_over_http_2_is_a_reset_and_costs_the_connection() {
    let (countersign, upstream, mut frames) = warm().await;
    let asking = countersign.ask("GET", "/", &[("x-request-id", "interim-33")], b"");
    let (answer, ()) = tokio::join!(asking, async {
        let (stream, _) = frames.request().await;
        // The head behind the 32nd may be the answer itself.
        for _ in 0..34 {
            frames.interim(stream).await;
        }
    });
    assert_eq!(answer.verdict(), (502, "upstream-reset"));
    let line = countersign.access_line("interim-33").await;
    assert!(line["error"].as_str().unwrap().contains("more than 32 interim answers"), "{line}");
    let (answer, ()) = tokio::join!(countersign.get("/"), async {
        let mut frames = upstream.accept(None).await;
        let (stream, _) = frames.request().await;
        frames.answer(stream, "on another connection").await;
    });
    assert_eq!((answer.status, answer.text().as_str()), (200, "on another connection"));
    countersign.finish().await;
}

#[tokio::test]
async fn a_connection_that_could_not_be_made_is_tried_once_more() {
    let (countersign, upstream) = before_frames().await;
    for method in ["GET", "POST"] {
        let (answer, mut frames) = tokio::join!(countersign.ask(method, "/", &[], b"x"), async {
            drop(upstream.accept_tcp().await);
            let mut frames = upstream.accept(None).await;
            let (stream, _) = frames.request().await;
            frames.answer(stream, "second try").await;
            frames
        });
        assert_eq!(answer.text(), "second try");
        frames.go_away(1, NO_ERROR).await;
    }
    let (answer, ()) = tokio::join!(countersign.get("/"), async {
        drop(upstream.accept_tcp().await);
        drop(upstream.accept_tcp().await);
    });
    assert_eq!(answer.verdict(), (502, "upstream-tls"));
    countersign.finish().await;
}

#[tokio::test]
async fn an_upstream_that_is_down_is_not_asked_twice_as_often() {
    const REQUESTS: usize = 200;
    let (countersign, upstream) = before_frames().await;
    let mut tries = 0;
    let asking = async {
        for _ in 0..REQUESTS {
            assert_eq!(countersign.get("/").await.verdict(), (502, "upstream-tls"));
        }
    };
    tokio::select! {
        () = asking => {}
        () = async { loop { drop(upstream.accept_tcp().await); tries += 1; } } => {}
    }
    // A fifth, the thirty that were there at first, and three a second.
    assert!((REQUESTS * 6 / 5..REQUESTS * 6 / 5 + 100).contains(&tries), "{tries}");
    countersign.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_counts_only_where_the_route_says_so() {
    for (line, fields, again) in [
        ("retry_idempotency_key = true", &[("idempotency-key", "\"k\"")][..], true),
        ("retry_idempotency_key = true", &[], false),
        ("", &[("idempotency-key", "\"k\"")], false),
    ] {
        let wire = Wire::listen().await;
        let world = Plan::open().add(&format!("{}{line}\n", wire.route("/wire"))).start().await;
        let mut client = world.countersign.connect().await;
        let (answer, mut used) = tokio::join!(client.get("/wire"), async {
            let mut used = wire.accept().await;
            used.head().await;
            used.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            used
        });
        assert_eq!(answer.text(), "ok");
        client.writer.request("POST", "/wire", fields, b"pay").await;
        used.head().await;
        used.body(3).await;
        drop(used);
        if again {
            let mut fresh = wire.accept().await;
            assert!(fresh.head().await.contains("idempotency-key: \"k\""));
            assert_eq!(fresh.body(3).await, b"pay");
            fresh.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npaid").await;
            assert_eq!(client.reader.answer("POST").await.text(), "paid");
        } else {
            assert_eq!(client.reader.answer("POST").await.verdict(), (502, "upstream-reset"), "{line}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn an_upload_in_progress_moves_from_a_dying_connection_if_it_may() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    let mut client = world.countersign.connect().await;
    for (method, again) in [("PUT", true), ("POST", false)] {
        let (answer, mut used) = tokio::join!(client.get("/wire"), async {
            let mut used = wire.accept().await;
            used.head().await;
            used.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            used
        });
        assert_eq!(answer.text(), "ok");
        client.writer.chunked(method, "/wire").await;
        client.writer.chunk("first").await;
        used.head().await;
        assert_eq!(used.body(10).await, b"5\r\nfirst\r\n");
        drop(used);
        if again {
            let mut fresh = wire.accept().await;
            fresh.head().await;
            assert_eq!(fresh.body(10).await, b"5\r\nfirst\r\n");
            client.writer.end().await;
            assert_eq!(fresh.body(5).await, b"0\r\n\r\n");
            fresh.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwhole").await;
            assert_eq!(client.reader.answer(method).await.text(), "whole");
        } else {
            assert_eq!(client.reader.answer(method).await.verdict(), (502, "upstream-reset"), "{method}");
        }
    }
    world.finish().await;
}

/// A server that leaves a part of an upload unread must end the connection (RFC 9112 9.3); a client that was not told would
/// send its next request into that end.
#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_says_that_its_connection_ends() {
    let wire = Wire::listen().await;
    let world = Plan::open().add(&wire.route("/wire")).start().await;
    for early in ["HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", ""] {
        let (mut client, mut line) = world.begin_upload(&wire).await;
        line.write(early).await;
        drop(line);
        let answer = client.reader.answer("POST").await;
        assert_eq!(answer.status, if early.is_empty() { 502 } else { 413 });
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // What was read to its end may go on.
    let mut client = world.countersign.connect().await;
    for body in [&b""[..], b"whole"] {
        let (answer, ()) = tokio::join!(client.ask("POST", "/wire", &[], body), async {
            let mut line = wire.accept().await;
            line.head().await;
            line.body(body.len()).await;
        });
        assert_eq!((answer.verdict(), answer.header("connection")), ((502, "upstream-reset"), None));
    }
    world.finish().await;
}
