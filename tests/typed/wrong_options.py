"""Wrong on purpose: each line with an expectation is an error to ``mypy --strict``, and no other
line is (tests/test_install.py). Never run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.erf import measure
from pgt_fx.inference import predict
from pgt_fx.testing import assert_causal, assert_progressive
from pgt_fx.training import backward, fit
from pgt_fx.zoo.diffusers_vae import small

model = nn.Conv1d(3, 4, 3)
clip = torch.zeros(1, 3, 8)
prog = pgt_fx.transform(model, clip)

pgt_fx.transform(model, clip, operator="mcoo")  # expect: arg-type
pgt_fx.transform(model, clip, future="later")  # expect: arg-type
pgt_fx.transform(model, clip, pooling="global")  # expect: arg-type
pgt_fx.transform(model, clip, clip_pools="never")  # expect: arg-type
pgt_fx.transform(model, clip, attention="all")  # expect: arg-type
pgt_fx.transform(model, clip, strict="no")  # expect: arg-type
pgt_fx.transform("slow_r50", clip)  # expect: arg-type
pgt_fx.transform(model, clip, fututre="zero")  # expect: call-arg
pgt_fx.analyze(model, clip, clip_pools="never")  # expect: arg-type
pgt_fx.doctor.examine(model, clip, clip_pools="never")  # expect: arg-type
pgt_fx.MarkovOperator("min")  # expect: arg-type
pgt_fx.AttentionMemory("two")  # expect: arg-type
pgt_fx.DPR("C")  # expect: arg-type
pgt_fx.DPR("A", order="sorted")  # expect: arg-type
pgt_fx.Schedule(length="8")  # expect: arg-type
prog.replace(future="later")  # expect: arg-type
prog.replace(poling="step")  # expect: call-arg
prog.options.replace(operator="mcoo")  # expect: arg-type
prog.run(clip, schedule="8,7")  # expect: arg-type
prog.run(clip)[0].shape  # expect: union-attr
prog(clip).shape  # expect: union-attr
pgt_fx.verify(prog, chunkings="many")  # expect: arg-type
pgt_fx.verify(prog).okay  # expect: attr-defined
assert_progressive(prog, chunkings="many")  # expect: arg-type
assert_progressive(prog, chunking=5)  # expect: call-arg
assert_causal(model, clip, redraw="no")  # expect: arg-type
backward(prog, clip, F.cross_entropy, gradient="exakt")  # expect: arg-type
backward(prog, clip, F.cross_entropy, on="first")  # expect: arg-type
backward(prog, clip, F.cross_entropy).losses[0].item()  # expect: union-attr
fit(prog, [], torch.optim.SGD(prog.parameters()), epochs=1, gradient="all")  # expect: arg-type
predict(prog, clip, view="whole")  # expect: arg-type
predict(prog, clip, over_steps="min")  # expect: arg-type
predict(prog, clip, over_frames="last")  # expect: arg-type
predict(prog, clip, over_views="last")  # expect: arg-type
predict(prog, clip, activation="relu")  # expect: arg-type
measure(prog, position="corner")  # expect: arg-type
zoo.frame_wise("resnet18", head="rnn")  # expect: arg-type
zoo.inflate("resnet18", temporal="c3d")  # expect: arg-type
zoo.Temporal(where="last")  # expect: arg-type
zoo.Temporal(weights="first")  # expect: arg-type
zoo.Temporal(ends="reflect")  # expect: arg-type
zoo.build("slow_r50", space="64")  # expect: arg-type
zoo.features("slow_r50", spaces=64)  # expect: call-arg
small("flux")  # expect: arg-type
pgt_fx.transfrom(model)  # expect: attr-defined
tensor: Tensor = prog  # expect: assignment
