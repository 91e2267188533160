//! Many thousand frames, right ones changed at random and such of nothing but chance, read in every way.

mod inputs;
mod reading;

use etherparse::PacketBuilder;

use inputs::Inputs;

/// Frames that are read.
const FRAMES: usize = 200_000;

/// Types, lengths, protocols, a VLAN tag.
const WORDS: [&[u8]; 11] =
    [&[0], &[1], &[4], &[5], &[6], &[17], &[44], &[0x45], &[0x60], &[0xff], &[0x81, 0, 0, 1]];

#[test]
fn no_frame_is_read_beyond_its_end_or_in_two_ways() {
    let seeds = seeds();
    let frames = Inputs::new(0x9e37_79b9_7f4a_7c15, &seeds, &WORDS);
    let carried: usize = frames.take(FRAMES).map(|mut frame| usize::from(reads(&mut frame))).sum();
    assert!(carried > FRAMES / 20, "only {carried} frames were as they should be");
}

/// Reads a frame and says whether it had a right IP header.
fn reads(frame: &mut [u8]) -> bool {
    reading::everything(frame);
    frame.len() > 34 && matches!(frame[14] >> 4, 4 | 6)
}

/// Frames of all kinds that are read, each as it should be.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (v4, w4) = ([10, 0, 0, 1], [198, 51, 100, 10]);
    let (v6, w6) = ([0x20; 16], [0xfd; 16]);
    let ethernet = || PacketBuilder::ethernet2(a, b);
    let mut add = |size: usize, write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::with_capacity(size);
        write(&mut bytes);
        seeds.push(bytes);
    };
    let tagged = ethernet;
    for data in [&b""[..], b"data", &[7; 100]] {
        add(200, &|to| ethernet().ipv4(v4, w4, 9).tcp(1, 80, 5, 6).write(to, data).expect("room"));
        add(200, &|to| ethernet().ipv4(v4, w4, 9).udp(1, 53).write(to, data).expect("room"));
        add(200, &|to| ethernet().ipv6(v6, w6, 9).tcp(1, 80, 5, 6).write(to, data).expect("room"));
        add(200, &|to| ethernet().ipv6(v6, w6, 9).udp(1, 53).write(to, data).expect("room"));
        let id = |number: u16| number.try_into().expect("twelve bits");
        add(200, &|to| {
            tagged().single_vlan(id(5)).ipv4(v4, w4, 9).udp(1, 53).write(to, data).expect("room");
        });
        add(200, &|to| {
            let builder = tagged().double_vlan(id(5), id(6)).ipv6(v6, w6, 9).tcp(1, 80, 5, 6);
            builder.write(to, data).expect("room");
        });
    }
    let quote_v4 = seeds[0][14..].to_vec();
    let quote_v6 = seeds[2][14..].to_vec();
    let mut icmp = Vec::new();
    let unreachable = etherparse::icmpv4::DestUnreachableHeader::Port;
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(unreachable);
    ethernet().ipv4(v4, w4, 9).icmpv4(kind).write(&mut icmp, &quote_v4).expect("room");
    seeds.push(icmp);
    let mut icmp = Vec::new();
    let unreachable = etherparse::icmpv6::DestUnreachableCode::Port;
    let kind = etherparse::Icmpv6Type::DestinationUnreachable(unreachable);
    ethernet().ipv6(v6, w6, 9).icmpv6(kind).write(&mut icmp, &quote_v6).expect("room");
    seeds.push(icmp);
    // Extension headers by hand: hop-by-hop, destination, routing, fragment before TCP.
    let tcp = seeds[2].clone();
    for chain in [&[0, 60][..], &[43], &[44], &[60, 44], &[0, 60, 43, 44, 60]] {
        let mut frame = tcp[..54].to_vec();
        let mut last = 20;
        for &kind in chain {
            frame[last] = kind;
            last = frame.len();
            frame.extend([6, 0, 0, 0, 0, 0, 0, 9]);
        }
        let payload = tcp.len() - 54 + chain.len() * 8;
        frame[18..20].copy_from_slice(&u16::try_from(payload).expect("it fits").to_be_bytes());
        frame.extend(&tcp[54..]);
        seeds.push(frame);
    }
    seeds
}
