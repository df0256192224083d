// SPDX-License-Identifier: GPL-2.0-or-later
/* run: see run.h. The program's end is seen through a pidfd, its output through a pipe. */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process_start.h"
#include "util.h"

#define SEARCH_MORE "/usr/sbin:/sbin" /* sudo and cron leave these out */
#define KILL_MS 5000

static volatile sig_atomic_t interrupted;
static int wake[2] = { -1, -1 }; /* a signal makes it readable for good */
static bool undoing;

static void on_signal(int number)
{
	int saved = errno;

	(void)number;
	interrupted = 1;
	if (write(wake[1], "", 1) < 0)
		interrupted = 1; /* it is full: readable all the same */
	errno = saved;
}

void run_catch(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	if (wake[0] >= 0 || pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

bool run_interrupted(void)
{
	return interrupted && !undoing;
}

void run_undo(void)
{
	undoing = true;
}

void run_pause(unsigned ms)
{
	struct pollfd fd = { .fd = undoing ? -1 : wake[0], .events = POLLIN };

	poll(&fd, 1, (int)ms);
}

int run_find(const char *program, char *path, size_t path_bytes)
{
	const char *search = getenv("PATH");
	char all[4096], *rest = all, *folder;

	if (strchr(program, '/')) {
		snprintf(path, path_bytes, "%s", program);
		return access(program, X_OK) < 0 ? -ENOENT : 0;
	}
	snprintf(all, sizeof(all), "%s:" SEARCH_MORE, search ? search : "/usr/bin:/bin");
	while ((folder = strsep(&rest, ":")))
		if (*folder && snprintf(path, path_bytes, "%s/%s", folder, program) < (int)path_bytes &&
		    !access(path, X_OK))
			return 0;
	return -ENOENT;
}

char *run_last_line(char *output)
{
	size_t end = strlen(output);
	char *line;

	while (end && (output[end - 1] == '\n' || output[end - 1] == ' '))
		output[--end] = '\0';
	line = strrchr(output, '\n');
	return line ? line + 1 : output;
}

static void __attribute__((noreturn)) become(const char *path, const char *const *argv, const char *environment, int output)
{
	process_start(output);
	if (environment) {
		CLEANUP_FREE char *copy = strdup(environment);
		char *value = copy ? strchr(copy, '=') : NULL;

		if (!value)
			_exit(126);
		*value = '\0';
		if (setenv(copy, value + 1, 1) < 0)
			_exit(126);
	}
	/* What it says is looked at: not in another language. */
	if (setenv("LC_ALL", "C", 1) < 0)
		_exit(126);
	execv(path, (char *const *)argv);
	dprintf(2, "%s: cannot run: %s\n", path, strerror(errno));
	_exit(127);
}

/* Read what is there; what is beyond the room is dropped. False: nothing will come any more. */
static bool drain(int fd, struct run_result *result, size_t *used)
{
	char data[4096];
	ssize_t n = read(fd, data, sizeof(data));

	for (ssize_t i = 0; i < n && *used < RUN_OUTPUT_BYTES; i++) {
		char c = data[i];

		result->output[(*used)++] = c == '\n' || c == '\t' || (c >= ' ' && c < 0x7f) ? c : '?';
	}
	result->output[*used] = '\0';
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Until it ends, its time is up, or the command is interrupted. */
static int follow(int process, int output, uint64_t end_ms, struct run_result *result)
{
	size_t used = 0;
	bool open = true;

	for (;;) {
		struct pollfd fds[] = { { .fd = process, .events = POLLIN },
					{ .fd = open ? output : -1, .events = POLLIN },
					{ .fd = undoing ? -1 : wake[0], .events = POLLIN } };
		uint64_t now = util_now_ms();
		uint64_t left = now < end_ms ? end_ms - now : 0;

		if (run_interrupted())
			return -EINTR;
		if (!left)
			return -ETIMEDOUT;
		if (poll(fds, 3, left > 1000000 ? 1000000 : (int)left) < 0 && errno != EINTR)
			return -errno;
		if (fds[1].revents)
			open = drain(output, result, &used);
		/* One that went into the background may have its output open: not waited for. */
		else if (fds[0].revents)
			return 0;
	}
}

int run_program(const char *const *argv, const char *environment, uint64_t timeout_ms, struct run_result *result)
{
	CLEANUP_FD int process = -1, in = -1;
	uint64_t began = util_now_ms();
	int pipes[2], status = 0, rc;
	char path[4096];
	pid_t pid;

	memset(result, 0, sizeof(*result));
	rc = run_find(argv[0], path, sizeof(path));
	if (rc)
		return rc;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	in = pipes[0];
	fcntl(in, F_SETFL, O_NONBLOCK);
	pid = fork();
	if (!pid)
		become(path, argv, environment, pipes[1]);
	rc = pid < 0 ? -errno : 0;
	close(pipes[1]);
	if (rc)
		return rc;
	setpgid(pid, pid); /* whoever is first */
	process = pidfd_open(pid, 0);
	rc = process < 0 ? -errno : follow(process, in, began + timeout_ms, result);
	if (rc) {
		struct pollfd end = { .fd = process, .events = POLLIN };

		kill(-pid, SIGKILL);
		/* One that waits in the kernel ends when that lets it: not waited for. */
		if (process >= 0 && poll(&end, 1, KILL_MS) == 0)
			return rc;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	result->exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	result->ms = util_now_ms() - began;
	return rc;
}
