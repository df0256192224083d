// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status_server: the process server's part of reprotect status, from the JSON of
 * userspace/process-server/status.c. Pure but for the stream it writes to; called by status.c.
 *
 * What a peer named itself (host, address) and what it said goes through format_clean().
 */
#include <inttypes.h>
#include <string.h>

#include "cli.h"
#include "conf.h"

static const char *clean(const json_t *json, const char *key, char out[64])
{
	return format_clean(cli_text(json, key), out, 64);
}

static const char *bytes(const json_t *json, const char *key, char out[64])
{
	return conf_format_bytes(cli_number(json, key), out, 64);
}

/* The words of the daemon for the two connections, with what they mean where that is not plain. */
static const char *link_text(const char *word)
{
	if (!strcmp(word, "away"))
		return "not connected";
	if (!strcmp(word, "idle"))
		return "not needed now";
	if (!strcmp(word, "greeting"))
		return "connected, waiting for its answer";
	if (!strcmp(word, "resync-needed"))
		return "refuses this machine";
	return word;
}

static void print_last_error(const json_t *error, uint64_t now_ms, FILE *out)
{
	uint64_t at_ms = cli_number(error, "time_ms");
	char text[1024], age[64];

	if (!json_is_object(error))
		return;
	fprintf(out, "    last error  %s ago", format_duration(now_ms > at_ms ? now_ms - at_ms : 0, age, sizeof(age)));
	if (*cli_text(error, "from"))
		fprintf(out, ", %s", clean(error, "from", age));
	fprintf(out, ": %s\n", format_clean(cli_text(error, "message"), text, sizeof(text)));
	if (*cli_text(error, "remedy"))
		fprintf(out, "    to do: %s\n", format_clean(cli_text(error, "remedy"), text, sizeof(text)));
}

static void print_epochs(const json_t *machine, FILE *out)
{
	const json_t *sending = json_object_get(machine, "sending");
	const json_t *progress = json_object_get(machine, "target_progress");
	uint64_t waiting = cli_number(machine, "epochs_in_spool");
	char a[64], b[64];

	fprintf(out, "    epochs      %" PRIu64 " complete, %" PRIu64 " applied", cli_number(machine, "last_complete"),
		cli_number(machine, "last_applied"));
	if (cli_number(machine, "open_epoch"))
		fprintf(out, "; %" PRIu64 " arriving", cli_number(machine, "open_epoch"));
	if (json_is_object(sending))
		fprintf(out, "; %" PRIu64 " going out, frame %" PRIu64 " of %" PRIu64, cli_number(sending, "epoch"),
			cli_number(sending, "frame"), cli_number(sending, "of"));
	if (json_is_object(progress))
		fprintf(out, "; target durable up to frame %" PRIu64 " of %" PRIu64, cli_number(progress, "frame"),
			cli_number(progress, "epoch"));
	fprintf(out, "\n    spool       %" PRIu64 " epoch%s, %s not applied yet, %s on disk\n", waiting, waiting == 1 ? "" : "s",
		bytes(machine, "unapplied_bytes", a), bytes(machine, "spool_bytes", b));
	if (cli_number(machine, "damaged_segments"))
		fprintf(out, "    damaged     %" PRIu64 " spool segments: what they held is sent again\n",
			cli_number(machine, "damaged_segments"));
}

static void print_machine(const json_t *machine, uint64_t now_ms, FILE *out)
{
	const char *name = *cli_text(machine, "host") ? "host" : "machine";
	char a[64], b[64];

	fprintf(out, "  machine %-12s uuid %s\n", clean(machine, name, a), clean(machine, "machine", b));
	fprintf(out, "    agent       %s", link_text(cli_text(machine, "agent")));
	if (*cli_text(machine, "agent_address"))
		fprintf(out, " from %s", clean(machine, "agent_address", a));
	fprintf(out, ", %s\n", format_rate(cli_number(machine, "in_bytes_per_second"), b, sizeof(b)));
	if (*cli_text(machine, "waits_for"))
		fprintf(out, "    held up     waits for %s\n", clean(machine, "waits_for", a));
	fprintf(out, "    target      %s, %s\n", link_text(cli_text(machine, "master_target")),
		format_rate(cli_number(machine, "out_bytes_per_second"), b, sizeof(b)));
	if (json_object_get(machine, "last_complete")) /* there is none before the first HELLO */
		print_epochs(machine, out);
	print_last_error(json_object_get(machine, "last_error"), now_ms, out);
}

void status_process_server(const json_t *answer, uint64_t now_ms, FILE *out)
{
	const json_t *spool = json_object_get(answer, "spool"), *machine;
	const json_t *machines = json_object_get(answer, "machines");
	size_t count = json_array_size(machines), i;
	uint64_t used = cli_number(spool, "used_bytes"), quota = cli_number(spool, "quota_bytes");
	char a[64], b[64], path[512];

	fprintf(out, "process server  listening on %s, %zu machine%s, version %s\n", cli_text(answer, "listen"), count,
		count == 1 ? "" : "s", cli_text(answer, "version"));
	fprintf(out, "  spool         %s of %s (%.0f %%) in %s\n", conf_format_bytes(used, a, sizeof(a)),
		conf_format_bytes(quota, b, sizeof(b)), quota ? (double)used * 100.0 / (double)quota : 0.0,
		format_clean(cli_text(spool, "path"), path, sizeof(path)));
	fprintf(out, "  target        %s\n", cli_text(answer, "master_target"));
	fprintf(out, "  running       for %s, memory %s, io %s%s\n",
		format_duration(cli_number(answer, "uptime_ms"), a, sizeof(a)), bytes(answer, "rss_bytes", b),
		cli_text(spool, "engine"), cli_true(spool, "direct_io") ? "" : " through the page cache");
	json_array_foreach(machines, i, machine)
		print_machine(machine, now_ms, out);
}
