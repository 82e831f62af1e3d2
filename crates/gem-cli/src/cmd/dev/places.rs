//! Where each node lives: its ports, its directory, its log.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Outcome};

/// From one node's ports to the next node's.
const STEP: u16 = 10;

/// A node's place.
#[derive(Debug)]
pub struct Place {
    /// Counted from 1.
    pub number: u16,
    /// For clients.
    pub listen: SocketAddr,
    /// For the mesh.
    pub mesh: SocketAddr,
    /// For bulk links.
    pub bulk: SocketAddr,
    pub data: PathBuf,
    pub log: PathBuf,
}

impl Place {
    /// What people call the node.
    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Whether the node is a member of a mesh already.
    pub fn is_member(&self) -> bool {
        self.data.join("identity").exists()
    }

    /// What lets others join, once the node has founded its mesh.
    pub fn secret(&self) -> PathBuf {
        self.data.join("join-secret")
    }
}

/// The places of `nodes` nodes in `dir`, which is made where it is missing.
#[expect(clippy::disallowed_methods, reason = "the directory that the nodes' directories lie in is the command's own")]
pub fn all(dir: &Path, nodes: u16, base: u16) -> Outcome<Vec<Place>> {
    let unusable =
        |error| Exit::failed(format!("dev: {} can't be used: {error}; choose another --data", dir.display()));
    let dir = std::path::absolute(dir).map_err(unusable)?;
    std::fs::create_dir_all(&dir).map_err(unusable)?;
    let last = u32::from(base) + u32::from(STEP) * u32::from(nodes.saturating_sub(1)) + 2;
    if last > u32::from(u16::MAX) {
        return Err(Exit::usage(format!(
            "dev: --port {base}: {nodes} nodes need ports up to {last}: choose a lower one"
        )));
    }
    let place = |number: u16| {
        // The last port is below the limit.
        let port = base + STEP * (number - 1);
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Place {
            number,
            listen: address(port),
            mesh: address(port + 1),
            bulk: address(port + 2),
            data: dir.join(format!("node-{number}")),
            log: dir.join(format!("node-{number}.log")),
        }
    };
    Ok((1..=nodes).map(place).collect())
}

/// Refuses ports that others have, all of them at once.
pub fn check_free(places: &[Place]) -> Outcome {
    let mut taken = Vec::new();
    for place in places {
        let ports = [
            (place.listen, is_tcp_free(place.listen)),
            (place.mesh, is_free(place.mesh)),
            (place.bulk, is_free(place.bulk)),
        ];
        for (address, is_free) in ports {
            if !is_free {
                taken.push(format!("{} ({})", address.port(), place.name()));
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(Exit::failed(format!(
        "dev: taken on 127.0.0.1: port {}; stop what uses them (another gem dev or gem start?), or shift all with --port BASE",
        taken.join(", ")
    )))
}

/// Nodes reach each other over UDP and TCP.
fn is_free(address: SocketAddr) -> bool {
    is_tcp_free(address) && UdpSocket::bind(address).is_ok()
}

#[expect(clippy::disallowed_methods, reason = "asks whether a node can take the port, and lets go of it")]
fn is_tcp_free(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_three_ports_ten_higher() {
        let dir = tempfile::tempdir().unwrap();
        let places = all(&dir.path().join("new"), 3, 7400).unwrap();
        let ports: Vec<_> = places.iter().map(|p| (p.listen.port(), p.mesh.port(), p.bulk.port())).collect();
        assert_eq!(ports, [(7400, 7401, 7402), (7410, 7411, 7412), (7420, 7421, 7422)]);
        assert!(places.iter().all(|p| p.data.starts_with(dir.path()) && !p.is_member()));
        assert!(all(dir.path(), 2, 65_524).is_err());
        assert_eq!(all(dir.path(), 2, 65_523).unwrap().last().unwrap().bulk.port(), 65_535);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "takes a port")]
    fn a_taken_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let place =
            |listen, mesh| Place { number: 2, listen, mesh, bulk: free, data: PathBuf::new(), log: PathBuf::new() };
        check_free(&[place(free, free)]).unwrap();
        for taken in [place(address, free), place(free, address)] {
            let Err(Exit::Failed(line)) = check_free(&[taken]) else { panic!("it is taken") };
            assert!(line.contains(&format!("{} (node-2)", address.port())) && line.contains("--port"), "{line}");
        }
    }
}
