// SPDX-License-Identifier: GPL-2.0-or-later
/* child: see child.h. Its end is seen through a pidfd, its output through a pipe. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "process_start.h"
#include "util.h"

struct child {
	pid_t pid;
	int pidfd, output_fd;
	sd_event_source *end, *output, *timer;
	uint64_t started_ms;
	unsigned kills;
	char text[CHILD_OUTPUT_BYTES + 1];
	size_t used;
	void (*done)(void *user, const struct child_result *result);
	void *user;
};

/* Keep the last of it. What is not plain text becomes a question mark. */
static void keep(struct child *child, const char *data, size_t bytes)
{
	if (bytes > CHILD_OUTPUT_BYTES) {
		data += bytes - CHILD_OUTPUT_BYTES;
		bytes = CHILD_OUTPUT_BYTES;
	}
	if (child->used + bytes > CHILD_OUTPUT_BYTES) {
		size_t drop = child->used + bytes - CHILD_OUTPUT_BYTES;

		memmove(child->text, child->text + drop, child->used - drop);
		child->used -= drop;
	}
	for (size_t i = 0; i < bytes; i++) {
		char c = data[i];

		child->text[child->used++] = c == '\n' || c == '\t' || (c >= ' ' && c < 0x7f) ? c : '?';
	}
	child->text[child->used] = '\0';
}

/* Read what is there. False: nothing will come any more. */
static bool drain(struct child *child)
{
	char data[4096];

	/* Bounded, so that one that never stops printing does not keep the loop. */
	for (int i = 0; i < 16; i++) {
		ssize_t n = read(child->output_fd, data, sizeof(data));

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (!n)
			return false;
		keep(child, data, (size_t)n);
	}
	return true;
}

static int on_output(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	(void)fd;
	(void)revents;
	if (!drain(user))
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
	return 0;
}

static void over(struct child *child, int status)
{
	struct child_result result = { .exit = WIFEXITED(status)   ? WEXITSTATUS(status) :
					       WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
								     255,
				       .timed_out = child->kills > 0,
				       .ms = util_now_ms() - child->started_ms,
				       .output = child->text };

	child->pid = 0;
	sd_event_source_set_enabled(child->end, SD_EVENT_OFF);
	sd_event_source_set_enabled(child->timer, SD_EVENT_OFF);
	sd_event_source_set_enabled(child->output, SD_EVENT_OFF);
	drain(child);
	child->done(child->user, &result); /* may free it */
}

static int on_end(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct child *child = user;
	int status = 0;

	(void)source;
	(void)fd;
	(void)revents;
	if (waitpid(child->pid, &status, WNOHANG) == 0)
		return 0;
	if (child->kills)
		kill(-child->pid, SIGKILL); /* the rest of a group that ran out of time */
	over(child, status);
	return 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *user)
{
	struct child *child = user;

	(void)usec;
	if (child->kills == 2) {
		over(child, 128 + SIGKILL); /* it waits in the kernel: WIFSIGNALED of that is SIGKILL */
		return 0;
	}
	kill(-child->pid, child->kills++ ? SIGKILL : SIGTERM);
	sd_event_source_set_time_relative(source, CHILD_KILL_MS * 1000ull);
	sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	return 0;
}

static void __attribute__((noreturn)) run(int output, char *const *argv, char *const *environment,
					  int (*function)(void *argument), void *argument)
{
	process_start(output);
	if (function)
		_exit(function(argument));
	if (!argv)
		_exit(126);
	execve(argv[0], argv, environment);
	dprintf(2, "%s: cannot run: %s\n", argv[0], strerror(errno));
	_exit(127);
}

void child_free(struct child *child)
{
	if (!child)
		return;
	if (child->pid > 0) {
		kill(-child->pid, SIGKILL);
		waitpid(child->pid, NULL, WNOHANG);
	}
	sd_event_source_disable_unref(child->end);
	sd_event_source_disable_unref(child->output);
	sd_event_source_disable_unref(child->timer);
	if (child->pidfd >= 0)
		close(child->pidfd);
	if (child->output_fd >= 0)
		close(child->output_fd);
	free(child);
}

int child_start(struct child **out, sd_event *event, char *const *argv, char *const *environment,
		int (*function)(void *argument), void *argument, uint64_t timeout_ms,
		void (*done)(void *user, const struct child_result *result), void *user)
{
	struct child *child = calloc(1, sizeof(*child));
	int pipes[2], rc;

	if (!child)
		return -ENOMEM;
	child->pidfd = child->output_fd = -1;
	child->done = done;
	child->user = user;
	child->started_ms = util_now_ms();
	if (pipe2(pipes, O_CLOEXEC) < 0) {
		rc = -errno;
		child_free(child);
		return rc;
	}
	child->output_fd = pipes[0];
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	child->pid = fork();
	if (!child->pid)
		run(pipes[1], argv, environment, function, argument);
	rc = child->pid < 0 ? -errno : 0;
	close(pipes[1]);
	if (!rc) {
		setpgid(child->pid, child->pid); /* whoever is first */
		child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
		rc = child->pidfd < 0 ? -errno : 0;
	}
	if (!rc)
		rc = sd_event_add_io(event, &child->end, child->pidfd, EPOLLIN, on_end, child);
	if (rc >= 0)
		rc = sd_event_add_io(event, &child->output, child->output_fd, EPOLLIN, on_output, child);
	if (rc >= 0)
		rc = sd_event_add_time_relative(event, &child->timer, CLOCK_BOOTTIME, timeout_ms * 1000,
						1000, on_time, child);
	if (rc < 0) {
		child_free(child);
		return rc;
	}
	*out = child;
	return 0;
}
