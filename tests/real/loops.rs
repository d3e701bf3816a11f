//! A configuration that sends queries back to itself over another program.

use std::net::{SocketAddr, UdpSocket};

use crate::instance::{Instance, backend, listen};
use crate::message;
use crate::place::{port, wait_for};

#[test]
fn a_loop_over_another_program_ends() {
    let [one, two] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], port())));
    let config = |own: SocketAddr, other: SocketAddr| {
        listen(own) + &backend(other, "") + "setMaxRepeatedQueries(50)\n"
    };
    let instances = [
        Instance::start_with(&config(one, two), &["--shards", "1"]),
        Instance::start_with(&config(two, one), &["--shards", "1"]),
    ];
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.send_to(&message::query(7, "loop.test"), one).expect("sent");
    let sum = |figure: &dyn Fn(&Instance) -> u64| instances.iter().map(figure).sum::<u64>();
    wait_for(
        || format!("the end of the loop: {:?}", instances[0].dump()),
        || (sum(&|i| i.dropped("query-repeated")) == 1).then_some(()),
    );
    let queries = sum(&|i| i.figure("queries"));
    assert!(queries <= 2 * 51, "it went around {queries} times");
}

#[test]
fn instances_that_copy_to_each_other_copy_a_query_once() {
    let [one, two] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], port())));
    let config = |own: SocketAddr, other: SocketAddr| {
        listen(own)
            + &format!("addAction(AllRule(), TeeAction('{other}')) addAction(AllRule(), RCodeAction(5))\n")
    };
    let instances = [
        Instance::start_with(&config(one, two), &["--shards", "2"]),
        Instance::start_with(&config(two, one), &["--shards", "2"]),
    ];
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.send_to(&message::query(7, "loop.test"), one).expect("sent");
    wait_for(
        || format!("the end of the loop: {:?}", instances[0].dump()),
        || (instances[0].dropped("tee-loop") == 1).then_some(()),
    );
    let queries = instances.each_ref().map(|instance| instance.figure("queries"));
    assert_eq!(queries, [2, 1], "it came back once");
    assert_eq!(instances[1].dropped("tee-loop"), 0);
}
