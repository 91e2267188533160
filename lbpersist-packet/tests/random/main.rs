//! Many thousand frames, right ones changed at random and such of nothing but chance, read in every way.

mod reading;

use etherparse::PacketBuilder;

/// Frames that are read.
const FRAMES: usize = 200_000;

#[test]
fn no_frame_is_read_beyond_its_end_or_in_two_ways() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seeds = seeds();
    let mut carried = 0;
    for number in 0..FRAMES {
        let mut frame = if number % 8 == 0 {
            (0..random.below(200)).map(|_| random.next() as u8).collect()
        } else {
            seeds[random.below(seeds.len())].clone()
        };
        for _ in 0..random.below(4) {
            random.change(&mut frame);
        }
        // Memory of exactly that size, so that a checker sees a byte beyond.
        let mut frame = frame.into_boxed_slice();
        carried += usize::from(reads(&mut frame));
    }
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

/// Xorshift (Marsaglia 2003): the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One byte, one bit, one end, or something more in between.
    fn change(&mut self, frame: &mut Vec<u8>) {
        if frame.is_empty() {
            return;
        }
        let place = self.below(frame.len());
        match self.below(6) {
            0 => frame[place] = self.next() as u8,
            1 => frame[place] ^= 1 << self.below(8),
            2 => frame.truncate(place),
            3 => frame.extend((0..self.below(20)).map(|n| n as u8)),
            4 => drop(frame.splice(place..place, [0x81, 0, 0, 1])),
            _ => {
                // Lengths and types are near the beginning.
                let place = place % 60.min(frame.len());
                frame[place] = [0, 1, 4, 5, 6, 17, 44, 0x45, 0x60, 0xff][self.below(10)];
            }
        }
    }
}
