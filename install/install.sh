#!/bin/sh
# Installs the mesh command for one user: no root, nothing outside of $MESH_HOME (~/.mesh).
#
#   curl -fsSL URL/install.sh | sh
#
# MESH_HOME says where to, MESH_URL where from. install/release.sh writes the URL of the release into it.

# All is in a function that the last line calls: of a script that arrives in part, nothing runs.
main() {
  set -eu
  url=
  url=${MESH_URL:-$url}
  [ -n "$url" ] || fail "This copy of install.sh belongs to no release: set MESH_URL to where one is served."
  url=${url%/}
  home=${MESH_HOME:-${HOME:+$HOME/.mesh}}
  [ -n "$home" ] || fail "There is no HOME: set MESH_HOME to the folder that mesh shall live in."

  program=mesh-$(platform)
  if command -v curl >/dev/null; then
    get() { curl -fsSL --connect-timeout 20 --retry 2 -o "$2" "$1" 2>"$work/error"; }
  elif command -v wget >/dev/null; then
    get() { wget -q -T 20 -t 3 -O "$2" "$1" 2>"$work/error"; }
  else
    fail "Neither curl nor wget is here: install one of them."
  fi
  if command -v sha256sum >/dev/null; then
    sha() { sha256sum "$1" | cut -d' ' -f1; }
  elif command -v shasum >/dev/null; then
    sha() { shasum -a 256 "$1" | cut -d' ' -f1; }
  else
    fail "Neither sha256sum nor shasum is here: without one, the download can't be verified."
  fi

  mkdir -p "$home/bin" || fail "Can't make the folder $home/bin: set MESH_HOME to one that you may write to."
  # In the same folder as the result, so that the last step is a rename: there is all of it, or nothing.
  work=$(mktemp -d "$home/bin/.install.XXXXXX") || fail "Can't write to $home/bin: set MESH_HOME to a folder that you may write to."
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM

  get "$url/SHA256SUMS" "$work/SHA256SUMS" || failed "$url/SHA256SUMS"
  wanted=$(sed -n "s/^\([0-9a-f]\{64\}\)  $program\$/\1/p" "$work/SHA256SUMS")
  [ -n "$wanted" ] || fail "The release at $url has no $program: its SHA256SUMS does not name it."
  echo "Downloading $program from $url"
  get "$url/$program" "$work/mesh" || failed "$url/$program"
  got=$(sha "$work/mesh")
  [ "$got" = "$wanted" ] ||
    fail "What was downloaded is not what was released: $program has the SHA-256 $got, and SHA256SUMS says $wanted. Nothing was installed; try again."

  chmod 755 "$work/mesh"
  version=$("$work/mesh" --version 2>"$work/error") ||
    fail "The program does not run here: $(head -n 1 "$work/error"). Nothing was installed."
  mv -f "$work/mesh" "$home/bin/mesh" || fail "Can't write $home/bin/mesh. Nothing was installed."

  echo "Installed $version as $home/bin/mesh"
  echo
  case :${PATH:-}: in
    *":$home/bin:"*) ;;
    *)
      echo "Put it in your PATH (and this line into your shell's profile):"
      echo "  export PATH=\"$home/bin:\$PATH\""
      echo
      ;;
  esac
  echo "Next:"
  echo "  mesh check --pre                    # is the cluster ready for the mesh?"
  echo "  mesh install | kubectl apply -f -   # put the control plane on it"
  echo "  mesh check                          # does it work?"
  echo "  mesh demo                           # or, without a cluster: a mesh on this machine"
}

# The name of this machine's platform in a release.
platform() {
  os=$(uname -s) || os="this system"
  machine=$(uname -m) || machine=unknown
  [ "$os" = Linux ] || fail "There is no mesh for $os yet, only for Linux: run this in a Linux machine or container."
  case $machine in
    x86_64 | amd64) echo linux-amd64 ;;
    aarch64 | arm64) echo linux-arm64 ;;
    *) fail "There is no mesh for the processor $machine, only for x86_64 and aarch64." ;;
  esac
}

failed() {
  fail "Can't download $1: $(tail -n 1 "$work/error"). Nothing was installed; is the network up, and the URL right?"
}

fail() {
  echo "mesh: $*" >&2
  exit 1
}

main
