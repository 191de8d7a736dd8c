#!/bin/sh
# Builds what a release consists of, as programs that need nothing of the system they run on.
#
#   [TARGET=x86_64-unknown-linux-gnu] [PROFILE=FILE] install/build.sh DIR [PROGRAM …]
#
# Puts mesh-proxy, mesh-controller and mesh (or what is named) into DIR. Linked statically with glibc: its memory
# allocation is the faster one, and since 2.34 it brings names' resolution (files and DNS) along. PROFILE is what
# train.sh has written: what the proxy does under load.
set -eu

fail() { echo "build.sh: $*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: [TARGET=x86_64-unknown-linux-gnu] [PROFILE=FILE] build.sh DIR [PROGRAM …]"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
if [ -n "${PROFILE:-}" ]; then
  [ -r "$PROFILE" ] || fail "there is no PROFILE $PROFILE: install/train.sh writes one"
  # rustc only warns of another file, and builds as without it. The first bytes of LLVM's indexed profiles:
  [ "$(od -An -tx1 -N8 "$PROFILE" | tr -d ' ')" = ff6c70726f666981 ] ||
    fail "PROFILE $PROFILE is not what install/train.sh writes"
  PROFILE=$(cd "$(dirname "$PROFILE")" && pwd)/$(basename "$PROFILE")
fi
[ $# -gt 0 ] || set -- mesh-proxy mesh-controller mesh

cd "$(dirname "$0")/.."
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
case $target in
  *-linux-gnu) ;;
  *) fail "$target is not a target of Linux with glibc" ;;
esac
# Said by --target, so that it does not concern what runs during the build (build scripts, macros).
# Packed relocations: the program can be loaded at any address without 600 KB that say where it mentions its own.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
# The inner loops of cryptography are assembler, and no panic passes through its C.
AWS_LC_SYS_CFLAGS="-Os -fno-asynchronous-unwind-tables"
export RUSTFLAGS AWS_LC_SYS_CFLAGS
target_dir=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
trained=
if [ -n "${PROFILE:-}" ]; then
  # Named after its content: cargo notices another name, but does not look into the file.
  copy=$target_dir/$(sha256sum <"$PROFILE" | cut -c1-16).profdata
  cp "$PROFILE" "$copy"
  trained="-C profile-use=$copy"
fi
for program; do
  case $program in
    mesh-testapp) package=mesh-tests ;;
    *) package=$program ;;
  esac
  # The one that is beside every pod is built smaller; for the others that would take longer than it is worth.
  case $program in
    mesh-proxy) profile=dist flags="$RUSTFLAGS $trained" ;;
    *) profile=release flags=$RUSTFLAGS ;;
  esac
  # One by one: built together, each would get the features that the others ask for.
  RUSTFLAGS=$flags cargo build --profile "$profile" --locked --target "$target" -p "$package" --bin "$program"
  cp "$target_dir/$target/$profile/$program" "$dir/$program"
done
