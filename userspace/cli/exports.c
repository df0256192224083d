// SPDX-License-Identifier: GPL-2.0-or-later
/* exports: see exports.h. */
#include "exports.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "run.h"
#include "util.h"

#define START_MS 120000u /* the undo log's index is read before it goes into the background */
#define ANSWER_MS 10000u
#define END_MS 5000u
#define POLL_MS 20u
#define NUMBERS_MAX 10000u
#define GREETING_BYTES 16u /* NBDMAGIC IHAVEOPT */

/* ---- pure ---------------------------------------------------------------- */

/* A formatted argument, behind the others. */
static int __attribute__((format(printf, 4, 5)))
argument(struct exports_command *command, size_t *count, size_t *used, const char *format, ...)
{
	size_t room = sizeof(command->text) - *used;
	va_list list;
	int n;

	va_start(list, format);
	n = vsnprintf(command->text + *used, room, format, list);
	va_end(list);
	if (n < 0 || (size_t)n >= room || *count + 1 >= ARRAY_LENGTH(command->argv))
		return -ENAMETOOLONG;
	command->argv[(*count)++] = command->text + *used;
	command->argv[*count] = NULL;
	*used += (size_t)n + 1;
	return 0;
}

int exports_command(const struct exports_server *server, struct exports_command *command)
{
	size_t count = 0, used = 0;
	int rc = argument(command, &count, &used, "nbdkit");

	rc = rc ? rc : argument(command, &count, &used, "--unix");
	rc = rc ? rc : argument(command, &count, &used, "%s", server->socket);
	rc = rc ? rc : argument(command, &count, &used, "--pidfile");
	rc = rc ? rc : argument(command, &count, &used, "%s", server->pidfile);
	rc = rc ? rc : argument(command, &count, &used, "%s", server->writable ? "--filter=cow" : "--readonly");
	rc = rc ? rc : argument(command, &count, &used, "%s", server->plugin);
	rc = rc ? rc : argument(command, &count, &used, "log=%s", server->log);
	rc = rc ? rc : argument(command, &count, &used, "state=%" PRIu64, server->state);
	rc = rc ? rc : argument(command, &count, &used, "disk=%u", server->disk);
	rc = rc ? rc : argument(command, &count, &used, "size=%" PRIu64, server->size_bytes);
	return rc ? rc : argument(command, &count, &used, "target=%s", server->target);
}

static const char *plain(const char *text, char *out, size_t out_bytes)
{
	size_t used = 0;

	for (; *text && used + 1 < out_bytes; text++) {
		unsigned char c = (unsigned char)*text;
		bool fine = isascii(c) && (isalnum(c) || c == '-' || (c == '.' && used));

		out[used++] = fine ? *text : '_';
	}
	out[used] = '\0';
	return used ? out : "x";
}

const char *exports_name(char out[EXPORTS_NAME_BYTES], const char *host, const char *disk, uint64_t point, unsigned number)
{
	char a[25], b[20];

	snprintf(out, EXPORTS_NAME_BYTES, "%s-%s-%" PRIu64 "-%u", plain(host, a, sizeof(a)), plain(disk, b, sizeof(b)), point,
		 number);
	return out;
}

const char *exports_uri(char out[EXPORTS_URI_BYTES], const char *socket)
{
	size_t used = (size_t)snprintf(out, EXPORTS_URI_BYTES, "nbd+unix:///?socket=");

	for (; *socket && used + 4 < EXPORTS_URI_BYTES; socket++) {
		unsigned char c = (unsigned char)*socket;

		used += (size_t)snprintf(out + used, EXPORTS_URI_BYTES - used,
					 isascii(c) && (isalnum(c) || strchr("/-._~", c)) ? "%c" : "%%%02X", c);
	}
	out[used] = '\0';
	return out;
}

bool exports_is_server(const char *cmdline, size_t bytes, const char *socket)
{
	bool first = true, unix_next = false;

	for (size_t at = 0; at < bytes; first = false) {
		const char *word = cmdline + at;
		size_t length = strnlen(word, bytes - at);
		const char *base;

		if (length == bytes - at)
			return false; /* cut off */
		base = strrchr(word, '/');
		if (first && strcmp(base ? base + 1 : word, "nbdkit") != 0)
			return false;
		if (unix_next)
			return !strcmp(word, socket);
		unix_next = !strcmp(word, "--unix");
		at += length + 1;
	}
	return false;
}

/* ---- the files ----------------------------------------------------------- */

static const char *directory(const struct cli_options *options)
{
	return options->exports_dir ? options->exports_dir : EXPORTS_DIR;
}

static void path_of(const struct cli_options *options, const char *name, const char *what, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/%s.%s", directory(options), name, what);
}

/* From a variable that closes it, to whoever closes it then. */
static int take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* The file is there, and locked, from one moment to the next: nobody takes it for a left-over. */
static int reserve(const struct cli_options *options, const char *host, const char *disk, uint64_t point,
		   char name[EXPORTS_NAME_BYTES])
{
	CLEANUP_FD int fd = open(directory(options), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char self[64], path[PATH_MAX];

	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return -errno;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	for (unsigned number = 1; number < NUMBERS_MAX; number++) {
		path_of(options, exports_name(name, host, disk, point, number), "json", path);
		if (!linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW)) {
			return take(&fd);
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

/* In place: the lock is on this file. */
static int store(int fd, const json_t *entry)
{
	CLEANUP_FREE char *text = json_dumps(entry, JSON_INDENT(2));
	size_t bytes = text ? strlen(text) : 0;

	if (!text)
		return -ENOMEM;
	if (ftruncate(fd, 0) < 0)
		return -errno;
	return pwrite(fd, text, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;
}

static json_t *load(int fd)
{
	char text[16384];
	ssize_t n = pread(fd, text, sizeof(text), 0);

	return n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
}

static void remove_files(const struct cli_options *options, const char *name, const char *socket)
{
	static const char *const kinds[] = { "pid", "sock", "json" }; /* the last is what makes it known */
	char path[PATH_MAX];

	if (socket && *socket)
		unlink(socket);
	for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
		path_of(options, name, kinds[i], path);
		unlink(path);
	}
}

/* ---- its process --------------------------------------------------------- */

/* A pidfd of the nbdkit at @socket; -ESRCH: it does not run, and whoever has its number now is somebody else. */
static int server_open(pid_t pid, const char *socket)
{
	CLEANUP_FD int process = pid > 0 ? pidfd_open(pid, 0) : -1, file = -1;
	char path[64], cmdline[16384];
	ssize_t n;

	if (process < 0)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	file = open(path, O_RDONLY | O_CLOEXEC);
	n = file < 0 ? -1 : read(file, cmdline, sizeof(cmdline));
	if (n <= 0 || !exports_is_server(cmdline, (size_t)n, socket))
		return -ESRCH;
	return take(&process);
}

static bool running(const json_t *entry)
{
	CLEANUP_FD int process = server_open((pid_t)cli_number(entry, "pid"), cli_text(entry, "socket"));

	return process >= 0;
}

static int end_server(pid_t pid, const char *socket)
{
	CLEANUP_FD int process = server_open(pid, socket);
	struct pollfd end = { .fd = process, .events = POLLIN };

	if (process < 0)
		return 0;
	if (pidfd_send_signal(process, SIGTERM, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -errno;
	if (poll(&end, 1, END_MS) > 0)
		return 0;
	/* It waits for a client; what it would do is of no worth to anybody. */
	pidfd_send_signal(process, SIGKILL, NULL, 0);
	return poll(&end, 1, END_MS) > 0 ? 0 : -ETIMEDOUT;
}

/* Its pid: it writes the file when it is in the background. 0: not yet. */
static pid_t read_pid(const char *path)
{
	CLEANUP_FILE FILE *file = fopen(path, "re");
	int pid = 0;
	char end = 0;

	return file && fscanf(file, "%d%c", &pid, &end) == 2 && end == '\n' && pid > 0 ? pid : 0;
}

/* Whether it says what a server says first. */
static bool greets(const char *path, unsigned timeout_ms)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char greeting[GREETING_BYTES];

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return false;
	return poll(&poll_fd, 1, (int)timeout_ms) > 0 &&
	       recv(fd, greeting, sizeof(greeting), MSG_WAITALL) == (ssize_t)sizeof(greeting) &&
	       !memcmp(greeting, "NBDMAGICIHAVEOPT", sizeof(greeting));
}

static int wait_for_server(const char *socket, const char *pidfile, pid_t *pid)
{
	uint64_t end = util_now_ms() + ANSWER_MS;

	for (; util_now_ms() < end && !run_interrupted(); run_pause(POLL_MS)) {
		*pid = read_pid(pidfile);
		if (*pid && greets(socket, 1000))
			return 0;
	}
	return run_interrupted() ? -EINTR : -ETIMEDOUT;
}

/* ---- starting ------------------------------------------------------------ */

/* Beside the logs: that volume has room, and what is written is gone when nbdkit ends. */
static int overlay_directory(const char *log, char environment[PATH_MAX])
{
	int rc = snprintf(environment, PATH_MAX, "TMPDIR=%s/../overlay", log) >= PATH_MAX ? -ENAMETOOLONG : 0;

	return rc ? rc : util_mkdirs(environment + strlen("TMPDIR="));
}

static json_t *describe(const json_t *point, const json_t *disk, const struct exports_server *server, const char *name, pid_t pid)
{
	const json_t *what = json_object_get(point, "point");
	char uri[EXPORTS_URI_BYTES];

	return json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:i, s:s, s:I, s:b, s:s, s:s, s:i, s:I, s:n}", "name", name, "machine",
			 cli_text(point, "machine"), "host", cli_text(point, "host"), "point", (json_int_t)server->state,
			 "point_name", cli_text(what, "name"), "time", cli_text(what, "time"), "disk", (int)server->disk,
			 "disk_name", cli_text(disk, "name"), "size_bytes", (json_int_t)server->size_bytes, "writable",
			 server->writable, "socket", server->socket, "uri", exports_uri(uri, server->socket), "pid", (int)pid,
			 "started_ms", (json_int_t)util_wall_ms(), "used_by");
}

/* Its error is not what it prints last. */
static const char *said(char *output)
{
	char *error = strstr(output, "error: ");

	if (!error)
		return run_last_line(output);
	error += strlen("error: ");
	error[strcspn(error, "\n")] = '\0';
	return error;
}

static void say_not_started(const char *disk, int rc, struct run_result *result)
{
	if (rc == -ENOENT)
		cli_error("install the package nbdkit", "disk %s: cannot be exported: there is no program nbdkit", disk);
	else if (rc == -EINTR)
		cli_error(NULL, "disk %s: not exported: interrupted", disk);
	else if (rc)
		cli_error("see: journalctl -t nbdkit", "disk %s: cannot be exported: nbdkit: %s", disk, strerror(-rc));
	else
		cli_error(NULL, "disk %s: cannot be exported: nbdkit: %s", disk, said(result->output));
}

/* From its start until it answers. */
static int start_server(const struct exports_server *server, const char *environment, pid_t *pid, struct run_result *result)
{
	struct exports_command command;
	int rc = exports_command(server, &command);

	if (!rc)
		rc = run_program(command.argv, environment, START_MS, result);
	if (rc || result->exit)
		return rc;
	return wait_for_server(server->socket, server->pidfile, pid);
}

static int absolute_path(const char *path, char out[PATH_MAX])
{
	CLEANUP_FREE char *here = *path == '/' ? strdup("") : getcwd(NULL, 0);
	int n = here ? snprintf(out, PATH_MAX, "%s%s%s", here, *here ? "/" : "", path) : -1;

	return n < 0 ? -errno : (size_t)n >= EXPORTS_SOCKET_BYTES ? -ENAMETOOLONG : 0;
}

enum cli_exit exports_start(const struct cli_options *options, const json_t *point, const json_t *disk, bool writable,
			    json_t **entry)
{
	char socket[PATH_MAX], pidfile[PATH_MAX], environment[PATH_MAX], name[EXPORTS_NAME_BYTES];
	struct exports_server server = { .plugin = options->plugin ? options->plugin : "reprotect",
					 .socket = socket,
					 .pidfile = pidfile,
					 .log = cli_text(point, "log"),
					 .target = cli_text(disk, "path"),
					 .state = cli_number(json_object_get(point, "point"), "id"),
					 .size_bytes = cli_number(disk, "size_bytes"),
					 .disk = (unsigned)cli_number(disk, "id"),
					 .writable = writable };
	const char *disk_name = cli_text(disk, "name");
	struct run_result result = { 0 };
	CLEANUP_FD int fd = -1;
	pid_t pid = 0;
	int rc = util_mkdirs(directory(options));

	*entry = NULL;
	if (!rc)
		rc = fd = reserve(options, cli_text(point, "host"), disk_name, server.state, name);
	if (rc < 0) {
		cli_error("run this as root", "exports: %s: cannot make a file there: %s", directory(options), strerror(-rc));
		return CLI_FAILED;
	}
	path_of(options, name, "sock", socket);
	path_of(options, name, "pid", pidfile);
	rc = options->listen ? absolute_path(options->listen, socket) :
	     strlen(socket) >= EXPORTS_SOCKET_BYTES ? -ENAMETOOLONG : 0;
	if (rc) {
		cli_error("choose another with --listen", "disk %s: the path of its socket, %s: %s", disk_name, socket, strerror(-rc));
		remove_files(options, name, NULL);
		return CLI_FAILED;
	}
	rc = writable ? overlay_directory(server.log, environment) : 0;
	if (rc) {
		cli_error("without --writable it needs none", "disk %s: no place for what is written: %s: %s", disk_name,
			  environment + strlen("TMPDIR="), strerror(-rc));
		remove_files(options, name, NULL);
		return CLI_FAILED;
	}
	rc = start_server(&server, writable ? environment : NULL, &pid, &result);
	if (!rc && !result.exit) {
		*entry = describe(point, disk, &server, name, pid);
		rc = *entry ? store(fd, *entry) : -ENOMEM;
	}
	if (rc || result.exit) {
		say_not_started(disk_name, rc, &result);
		json_decref(*entry);
		*entry = NULL;
		end_server(pid ? pid : read_pid(pidfile), socket);
		remove_files(options, name, pid ? socket : NULL); /* one that could not be had is somebody else's */
		return CLI_FAILED;
	}
	return CLI_OK;
}

/* ---- listing, ending ----------------------------------------------------- */

enum cli_exit exports_end(const struct cli_options *options, const json_t *entry)
{
	const char *name = cli_text(entry, "name"), *socket = cli_text(entry, "socket");
	int rc = end_server((pid_t)cli_number(entry, "pid"), socket);

	if (rc) {
		cli_error("kill it by hand", "export %s: its nbdkit, process %" PRIu64 ", cannot be ended: %s", name,
			  cli_number(entry, "pid"), strerror(-rc));
		return CLI_FAILED;
	}
	remove_files(options, name, socket);
	return CLI_OK;
}

static bool used(const json_t *entry)
{
	return json_is_object(json_object_get(entry, "used_by"));
}

/* One file. NULL: it is nothing, or what was left of one that is over. */
static json_t *list_one(const struct cli_options *options, const char *name)
{
	CLEANUP_FD int fd = -1;
	char path[PATH_MAX];
	json_t *entry;
	bool runs;

	path_of(options, name, "json", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) /* it is being started */
		return json_pack("{s:s, s:b, s:b}", "name", name, "running", 0, "starting", 1);
	entry = load(fd);
	runs = entry && running(entry);
	if (!runs && !used(entry)) {
		remove_files(options, name, entry ? cli_text(entry, "socket") : NULL);
		json_decref(entry);
		return NULL;
	}
	json_object_set_new(entry, "running", json_boolean(runs));
	return entry;
}

static int is_entry(const struct dirent *entry)
{
	const char *end = strrchr(entry->d_name, '.');

	return end && end != entry->d_name && !strcmp(end, ".json") && strlen(entry->d_name) < EXPORTS_NAME_BYTES;
}

json_t *exports_list(const struct cli_options *options)
{
	json_t *list = json_array();
	struct dirent **names = NULL;
	int count = scandir(directory(options), &names, is_entry, versionsort);

	for (int i = 0; i < count; i++) {
		json_t *entry;

		*strrchr(names[i]->d_name, '.') = '\0';
		entry = list_one(options, names[i]->d_name);
		if (entry)
			json_array_append_new(list, entry);
		free(names[i]);
	}
	free(names);
	return list;
}

int exports_use(const struct cli_options *options, const json_t *entry, const char *device, const char *mount)
{
	CLEANUP_JSON json_t *stored = NULL;
	CLEANUP_FD int fd = -1;
	char path[PATH_MAX];

	path_of(options, cli_text(entry, "name"), "json", path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return -errno;
	stored = load(fd);
	if (!stored)
		return -EBADMSG;
	json_object_set_new(stored, "used_by", device ? json_pack("{s:s, s:s*}", "device", device, "mount", mount) : json_null());
	return store(fd, stored);
}
