#!/bin/sh
# Makes the folder of a release: what install.sh downloads, and install.sh itself.
#
#   install/release.sh URL DIR PROGRAM …
#
# URL is where DIR will be served, such as https://example.com/mesh/0.1.0. Each PROGRAM is a `mesh` for one
# platform, in a folder named after it: build/linux-amd64/mesh, build/linux-arm64/mesh. DIR gets
# mesh-linux-amd64, mesh-linux-arm64, SHA256SUMS and install.sh.
set -eu

fail() { echo "release.sh: $*" >&2; exit 1; }

[ $# -ge 3 ] || fail "usage: release.sh URL DIR PROGRAM …"
url=${1%/} dir=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)

# It becomes part of a shell script, in single quotes.
case $url in
  *[!a-zA-Z0-9:/._~%+@-]*) fail "'$url' has characters that a plain URL does not have" ;;
  http://?* | https://?*) ;;
  *) fail "'$url' is not a URL of http or https" ;;
esac

mkdir -p "$dir"
: >"$dir/SHA256SUMS"
for program; do
  [ -f "$program" ] || fail "there is no file $program"
  platform=$(basename "$(dirname "$program")")
  case $platform in
    linux-amd64 | linux-arm64) ;;
    *) fail "$program is not in a folder named linux-amd64 or linux-arm64, which says what it runs on" ;;
  esac
  cp "$program" "$dir/mesh-$platform"
  chmod 755 "$dir/mesh-$platform"
  (cd "$dir" && sha256sum "mesh-$platform" >>SHA256SUMS)
done

sed "s|^  url=$|  url='$url'|" "$here/install.sh" >"$dir/install.sh"
grep -qxF "  url='$url'" "$dir/install.sh" || fail "install.sh has no place for the URL"
chmod 755 "$dir/install.sh"
echo "Serve $dir at $url; then: curl -fsSL $url/install.sh | sh"
