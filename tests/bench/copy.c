// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * copy: what a rollback is measured against: FROM onto TO, one behind the other, past the page cache, DEPTH pieces of
 * 1 MiB at a time, and a flush. Called by tests/bench/undo.
 *
 *	copy FROM TO		whole mebibytes of FROM; TO is there and as large
 *
 * Prints "SECONDS BYTES".
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <liburing.h>

#include "io.h"
#include "util.h"

#define DEPTH 16u

struct piece {
	char *data;
	uint64_t offset;
	bool writing;
};

static int fail(const char *what, int error)
{
	fprintf(stderr, "copy: %s: %s\n", what, strerror(error));
	return 1;
}

static void queue(struct io_uring *ring, struct piece *piece, int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (piece->writing)
		io_uring_prep_write(sqe, fd, piece->data, MIB, piece->offset);
	else
		io_uring_prep_read(sqe, fd, piece->data, MIB, piece->offset);
	io_uring_sqe_set_data(sqe, piece);
}

/* 0 or an errno */
static int copy(struct io_uring *ring, int from, int to, uint64_t bytes)
{
	struct piece pieces[DEPTH] = { 0 };
	uint64_t next = 0, done = 0;

	for (unsigned i = 0; i < DEPTH && next < bytes; i++, next += MIB) {
		pieces[i] = (struct piece){ .data = io_buffer_alloc(MIB), .offset = next };
		if (!pieces[i].data)
			return ENOMEM;
		queue(ring, &pieces[i], from);
	}
	while (done < bytes) {
		struct io_uring_cqe *cqe;
		struct piece *piece;
		int r = io_uring_submit_and_wait(ring, 1);

		if (r < 0 && r != -EINTR)
			return -r;
		while (!io_uring_peek_cqe(ring, &cqe)) {
			piece = io_uring_cqe_get_data(cqe);
			if (cqe->res != (int)MIB)
				return cqe->res < 0 ? -cqe->res : EIO;
			io_uring_cqe_seen(ring, cqe);
			if (piece->writing) {
				done += MIB;
				if (next >= bytes)
					continue;
				piece->offset = next;
				next += MIB;
			}
			piece->writing = !piece->writing;
			queue(ring, piece, piece->writing ? to : from);
		}
	}
	for (unsigned i = 0; i < DEPTH; i++)
		free(pieces[i].data);
	return fdatasync(to) ? errno : 0;
}

int main(int argc, char **argv)
{
	struct io_uring ring;
	struct stat st;
	uint64_t began, bytes;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: copy FROM TO\n");
		return 2;
	}
	CLEANUP_FD int from = open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC);
	CLEANUP_FD int to = open(argv[2], O_WRONLY | O_DIRECT | O_CLOEXEC);

	if (from < 0 || fstat(from, &st))
		return fail(argv[1], errno);
	if (to < 0)
		return fail(argv[2], errno);
	r = io_uring_queue_init(DEPTH, &ring, 0);
	if (r)
		return fail("io_uring", -r);
	bytes = (uint64_t)st.st_size / MIB * MIB;
	began = util_now_ns();
	r = copy(&ring, from, to, bytes);
	if (r)
		return fail(argv[2], r);
	printf("%.6f %" PRIu64 "\n", (double)(util_now_ns() - began) / 1e9, bytes);
	return 0;
}
