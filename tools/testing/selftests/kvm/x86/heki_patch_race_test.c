// SPDX-License-Identifier: GPL-2.0
/*
 * One vCPU runs an instruction all the time while another one has it changed:
 * it meets the old one or the new one, whole, and never INT3.
 */
#include <pthread.h>

#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2

/* Pages of the test memory. */
#define TEXT		0
#define TABLE		1
#define KEY		2
#define PLAIN		3
#define REQUESTS	8	/* two */

#define TARGET		0x20	/* of the jump label, from the start of the text */
#define STOP		HEKI_PAGE(PLAIN)
#define RUNS		(HEKI_PAGE(PLAIN) + 64)

#define FLIPS		100
#define RUNS_PER_FLIP	1000
#define WAIT_MAX	(1u << 30)

static const u8 nop[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 jump[] = { 0xe9, TARGET - 5, 0x00, 0x00, 0x00 };

/* A function with a jump label: returns 1 over the NOP, 2 over the jump. */
static void put_text(struct heki_vm *h)
{
	static const u8 one[] = { 0xb8, 1, 0, 0, 0, 0xc3 };	/* mov $1, %eax; ret */
	static const u8 two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };
	u8 *text = heki_hva(h, HEKI_PAGE(TEXT));

	memcpy(text, nop, sizeof(nop));
	memcpy(text + sizeof(nop), one, sizeof(one));
	memcpy(text + TARGET, two, sizeof(two));
}

/* A struct jump_entry. */
static void put_table(struct heki_vm *h)
{
	struct {
		s32 code;
		s32 target;
		s64 key;
	} *entry = heki_hva(h, HEKI_PAGE(TABLE));

	entry->code = HEKI_PAGE(TEXT) - HEKI_PAGE(TABLE);
	entry->target = HEKI_PAGE(TEXT) + TARGET - (HEKI_PAGE(TABLE) + 4);
	entry->key = HEKI_PAGE(KEY) - (HEKI_PAGE(TABLE) + 8);
}

static void seal(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	put_text(h);
	put_table(h);
	heki_add_range(req, HEKI_PAGE(TEXT), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_add_range(req, HEKI_PAGE(TABLE), PAGE_SIZE, 0, HEKI_KIND_RODATA);
	heki_ranges(req)[0].va = HEKI_PAGE(TEXT);
	heki_ranges(req)[1].va = HEKI_PAGE(TABLE);
	heki_areas(req)[req->nr_areas++] = (struct heki_area){
		.kind = HEKI_AREA_JUMP_TABLE, .va = HEKI_PAGE(TABLE), .len = 16,
	};
	heki_seal(h);
}

struct request {
	struct heki_patch head;
	struct heki_site site;
};

static void put_request(struct heki_vm *h, u64 gpa, const u8 *old, const u8 *new)
{
	struct request *req = heki_hva(h, gpa);

	*req = (struct request){
		.head = { .version = HEKI_ABI_VERSION, .nr_sites = 1 },
		.site = { .va = HEKI_PAGE(TEXT), .len = sizeof(nop) },
	};
	memcpy(req->site.old, old, sizeof(nop));
	memcpy(req->site.new, new, sizeof(nop));
}

/*
 * Nothing interrupts the guest; but Bochs lets the host's own timer through only
 * while the guest takes interrupts.
 */
static void let_the_host_in(void)
{
	asm volatile("sti");
}

/* Counts what the function at arg[0] returns; the first surprise ends it. */
static u64 guest_spin(u64 *arg)
{
	volatile u64 *stop = (u64 *)STOP, *runs = (u64 *)RUNS;

	let_the_host_in();
	while (!*stop) {
		u64 ret = ((u64 (*)(void))arg[0])();

		if (ret != 1 && ret != 2)
			return ret ?: ~0ull;
		runs[ret]++;
	}
	return 0;
}

/*
 * Sends the two requests at arg[0] and arg[1] in turns, arg[2] times, and each time
 * lets the other vCPU run what it made of the text.
 */
static u64 guest_flip(u64 *arg)
{
	volatile u64 *runs = (u64 *)RUNS;
	u64 i, wait, enough, ret;

	let_the_host_in();
	for (i = 0; i < arg[2]; i++) {
		ret = kvm_hypercall(KVM_HC_HEKI, HEKI_OP_PATCH, arg[i & 1],
				    sizeof(struct request), 0);
		if (ret)
			return ret;
		enough = runs[1] + runs[2] + RUNS_PER_FLIP;
		for (wait = 0; runs[1] + runs[2] < enough; wait++) {
			if (wait == WAIT_MAX)
				return ~0ull;
			cpu_relax();
		}
	}
	return 0;
}

static void *run_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

TEST(no_vcpu_meets_half_an_instruction)
{
	u64 *runs, first = HEKI_PAGE(REQUESTS), second = HEKI_PAGE(REQUESTS + 1);
	struct heki_vm h;
	pthread_t thread;

	heki_vm_create(&h, NR_VCPUS);
	seal(&h);
	put_request(&h, first, nop, jump);
	put_request(&h, second, jump, nop);
	runs = heki_hva(&h, RUNS);

	heki_prepare_call(h.vcpu[1], guest_spin, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(TEXT) });
	pthread_create(&thread, NULL, run_thread, h.vcpu[1]);
	EXPECT_EQ(0, heki_call(h.vcpu[0], guest_flip, first, second, FLIPS));
	heki_poke(&h, STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, heki_finish_call(h.vcpu[1]));

	ksft_print_msg("%ld runs over the NOP, %ld over the jump\n", (long)runs[1], (long)runs[2]);
	EXPECT_LE(FLIPS / 2 * RUNS_PER_FLIP, runs[1]);
	EXPECT_LE(FLIPS / 2 * RUNS_PER_FLIP, runs[2]);
	heki_vm_free(&h);
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
